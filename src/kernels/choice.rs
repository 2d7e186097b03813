//! How a token's paths are chosen from its scores: what the routers of published models differ in.

use crate::reference::{PathRule, PathScore};

/// How the paths of a token are chosen, and what they weigh.
///
/// With `c = score + correction bias`, groups are kept by their best `c`, then the paths with the largest `c` are chosen within
/// them; of equals the one with the lower index. A chosen path's gate is its score without the bias.
///
/// ```
/// use double_routing::kernels::{GroupLimit, GroupScore, PathChoice, Score};
/// // 256 paths in 8 groups, of which 4 are kept by the sum of their two best.
/// let choice = PathChoice {
///     score: Score::Sigmoid,
///     groups: Some(GroupLimit { groups: 8, kept: 4, score: GroupScore::SumOfTwo }),
///     renormalise: true,
///     scale: 2.5,
/// };
/// assert_ne!(choice, PathChoice::default());
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PathChoice {
    /// What a path scores for its logit.
    pub score: Score,
    /// Whether only the paths of the best groups can be chosen.
    pub groups: Option<GroupLimit>,
    /// Divides the gates of a token by their sum (and 1e-20).
    pub renormalise: bool,
    /// Multiplies every gate, at the end.
    pub scale: f32,
}

impl Default for PathChoice {
    /// Softmax over all paths, no groups, gates as they are.
    fn default() -> Self {
        Self { score: Score::Softmax, groups: None, renormalise: false, scale: 1.0 }
    }
}

impl From<PathChoice> for PathRule {
    /// The same choice for the CPU reference.
    fn from(choice: PathChoice) -> Self {
        let PathChoice { score, groups, renormalise, scale } = choice;
        let limit = groups.unwrap_or(GroupLimit { groups: 1, kept: 1, score: GroupScore::Max });
        Self {
            score: match score {
                Score::Softmax => PathScore::Softmax,
                Score::Sigmoid => PathScore::Sigmoid,
                Score::SqrtSoftplus => PathScore::SqrtSoftplus,
                Score::SoftmaxOfChosen => PathScore::Logit,
            },
            groups: limit.groups as usize,
            kept: limit.kept as usize,
            sum_of_two: limit.score == GroupScore::SumOfTwo,
            renormalise,
            scale: scale.into(),
        }
    }
}

/// What a path scores for its logit.
///
/// ```
/// assert_eq!(double_routing::kernels::Score::default(), double_routing::kernels::Score::Softmax);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Score {
    /// Softmax over the logits of all paths.
    #[default]
    Softmax,
    /// `1 / (1 + e⁻ˣ)`.
    Sigmoid,
    /// `√ln(1 + eˣ)`.
    SqrtSoftplus,
    /// The logit itself; the gates are the softmax over the chosen logits.
    SoftmaxOfChosen,
}

/// Groups of neighbouring paths, of which only the best can be chosen from.
///
/// ```
/// use double_routing::kernels::{GroupLimit, GroupScore};
/// let limit = GroupLimit { groups: 8, kept: 3, score: GroupScore::Max };
/// assert!(limit.kept <= limit.groups);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupLimit {
    /// Groups; their number divides that of the paths.
    pub groups: u32,
    /// The groups that are kept.
    pub kept: u32,
    /// What a group scores.
    pub score: GroupScore,
}

/// What a group of paths scores.
///
/// ```
/// assert_ne!(double_routing::kernels::GroupScore::Max, double_routing::kernels::GroupScore::SumOfTwo);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupScore {
    /// The largest `c` of its paths.
    Max,
    /// The sum of its two largest.
    SumOfTwo,
}
