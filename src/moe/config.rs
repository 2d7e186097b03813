//! What a router chooses, and the configurations of published models.

use crate::{
    Error, Result,
    kernels::{GroupLimit, GroupScore, PathChoice, Score},
};

/// How many paths there are, how many of them a token gets, and how they are chosen.
///
/// ```
/// use double_routing::moe::RouterConfig;
/// let config = RouterConfig::deepseek_v3();
/// assert_eq!((config.paths, config.per_token), (256, 8));
/// // A model of one's own: 16 paths, 2 of them, otherwise the same.
/// let own = RouterConfig { paths: 16, per_token: 2, ..config };
/// assert!(own.check().is_ok());
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RouterConfig {
    /// P: the paths (experts) there are.
    pub paths: usize,
    /// e: the paths of a token.
    pub per_token: usize,
    /// How they are chosen and what they weigh.
    pub choice: PathChoice,
}

impl RouterConfig {
    /// DeepSeek-V2: 160 paths, 6 of them, from 3 of 8 groups by their largest; softmax, times 16.
    ///
    /// ```
    /// assert_eq!(double_routing::moe::RouterConfig::deepseek_v2().choice.scale, 16.0);
    /// ```
    pub const fn deepseek_v2() -> Self {
        let groups = GroupLimit { groups: 8, kept: 3, score: GroupScore::Max };
        let choice = PathChoice { score: Score::Softmax, groups: Some(groups), renormalise: false, scale: 16.0 };
        Self { paths: 160, per_token: 6, choice }
    }

    /// DeepSeek-V3 and R1: 256 paths, 8 of them, from 4 of 8 groups by the sum of their two largest; sigmoid and a correction
    /// bias, renormalised, times 2.5.
    ///
    /// ```
    /// assert!(double_routing::moe::RouterConfig::deepseek_v3().choice.renormalise);
    /// ```
    pub const fn deepseek_v3() -> Self {
        let groups = GroupLimit { groups: 8, kept: 4, score: GroupScore::SumOfTwo };
        let choice = PathChoice { score: Score::Sigmoid, groups: Some(groups), renormalise: true, scale: 2.5 };
        Self { paths: 256, per_token: 8, choice }
    }

    /// Kimi K2: 384 paths, 8 of them; sigmoid and a correction bias, renormalised, times 2.827.
    ///
    /// ```
    /// assert_eq!(double_routing::moe::RouterConfig::kimi_k2().paths, 384);
    /// ```
    pub const fn kimi_k2() -> Self {
        let choice = PathChoice { score: Score::Sigmoid, groups: None, renormalise: true, scale: 2.827 };
        Self { paths: 384, per_token: 8, choice }
    }

    /// Mixtral 8x7B: 8 paths, 2 of them; softmax over the chosen.
    ///
    /// ```
    /// assert_eq!(double_routing::moe::RouterConfig::mixtral().per_token, 2);
    /// ```
    pub const fn mixtral() -> Self {
        let choice = PathChoice { score: Score::SoftmaxOfChosen, groups: None, renormalise: false, scale: 1.0 };
        Self { paths: 8, per_token: 2, choice }
    }

    /// OLMoE: 64 paths, 8 of them; softmax over all, not renormalised.
    ///
    /// ```
    /// assert_eq!(double_routing::moe::RouterConfig::olmoe().paths, 64);
    /// ```
    pub const fn olmoe() -> Self {
        Self { paths: 64, per_token: 8, choice: softmax(false) }
    }

    /// Qwen1.5-MoE and Qwen2-MoE: 60 paths, 4 of them; softmax over all, not renormalised.
    ///
    /// ```
    /// assert_eq!(double_routing::moe::RouterConfig::qwen2_moe().per_token, 4);
    /// ```
    pub const fn qwen2_moe() -> Self {
        Self { paths: 60, per_token: 4, choice: softmax(false) }
    }

    /// Qwen3-30B-A3B and Qwen3-235B-A22B: 128 paths, 8 of them; softmax over all, renormalised.
    ///
    /// ```
    /// assert!(double_routing::moe::RouterConfig::qwen3_moe().choice.renormalise);
    /// ```
    pub const fn qwen3_moe() -> Self {
        Self { paths: 128, per_token: 8, choice: softmax(true) }
    }

    /// Whether the numbers fit each other.
    ///
    /// # Errors
    /// [`Error::Shape`] where a token gets none, or more paths than there are, or than the groups that are kept have; where groups do not
    /// divide the paths; and where they score by their two largest but have one.
    ///
    /// ```
    /// use double_routing::moe::RouterConfig;
    /// let error = RouterConfig { per_token: 9, ..RouterConfig::mixtral() }.check().unwrap_err();
    /// assert_eq!(error.to_string(), "router: 9 paths a token, of 8");
    /// ```
    pub fn check(&self) -> Result<()> {
        let Self { paths, per_token, choice } = self;
        if *per_token == 0 || per_token > paths {
            return Err(Error::shape("router", format!("{per_token} paths a token, of {paths}")));
        }
        if let Some(GroupLimit { groups, kept, score }) = choice.groups {
            if groups == 0 || !paths.is_multiple_of(groups as usize) {
                return Err(Error::shape("router", format!("{paths} paths in {groups} groups")));
            }
            if kept == 0 || kept > groups {
                return Err(Error::shape("router", format!("{kept} groups kept, of {groups}")));
            }
            let size = paths / groups as usize;
            if kept as usize * size < *per_token {
                let (left, each) = (kept as usize * size, if kept == 1 { "group" } else { "groups" });
                return Err(Error::shape(
                    "router",
                    format!("{per_token} paths a token, of {left} in {kept} {each} kept of {groups}"),
                ));
            }
            if score == GroupScore::SumOfTwo && size == 1 {
                return Err(Error::shape("router", format!("{groups} groups of 1 path score by their 2 largest")));
            }
        }
        if !choice.scale.is_finite() {
            return Err(Error::shape("router", format!("the scale is {}", choice.scale)));
        }
        Ok(())
    }
}

const fn softmax(renormalise: bool) -> PathChoice {
    PathChoice { score: Score::Softmax, groups: None, renormalise, scale: 1.0 }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    #[test]
    fn kept_groups_have_as_many_paths_as_a_token_gets() {
        let of = |paths, per_token, groups, kept, score| {
            let groups = Some(GroupLimit { groups, kept, score });
            RouterConfig { paths, per_token, choice: PathChoice { groups, ..PathChoice::default() } }.check()
        };
        assert!(of(8, 4, 4, 2, GroupScore::Max).is_ok());
        let error = of(8, 5, 4, 2, GroupScore::Max).unwrap_err();
        assert_eq!(error.to_string(), "router: 5 paths a token, of 4 in 2 groups kept of 4");
        assert!(of(8, 2, 8, 2, GroupScore::Max).is_ok());
        let error = of(8, 2, 8, 2, GroupScore::SumOfTwo).unwrap_err();
        assert_eq!(error.to_string(), "router: 8 groups of 1 path score by their 2 largest");
        use RouterConfig as Config;
        let published = [Config::deepseek_v2(), Config::deepseek_v3(), Config::kimi_k2(), Config::mixtral()];
        for config in published.into_iter().chain([Config::olmoe(), Config::qwen2_moe(), Config::qwen3_moe()]) {
            assert!(config.check().is_ok(), "{config:?}");
        }
    }
}
