//! A model that tells languages: from a text's characters to the layer's x, and from its results to what they say of the text.
//! `examples/training/train.py` made the model.

use anyhow::{Context, ensure};
use double_routing::{Checkpoint, Output, Weights};
use safetensors::SafeTensors;
use serde::Serialize;

use crate::{input::Input, numbers::Numbers};

/// A table of token vectors, and the layer behind it.
#[derive(Debug)]
pub struct Model {
    /// The layer's.
    pub weights: Weights,
    /// Codes of the languages, in the order of the scores.
    pub labels: Vec<String>,
    /// Their names in themselves.
    pub names: Vec<String>,
    tokens: Vec<f32>,
    buckets: usize,
}

/// A language and how probable it is.
#[derive(Debug, Serialize)]
pub struct Guess<'a> {
    /// Its code.
    pub label: &'a str,
    /// Its name in itself.
    pub name: &'a str,
    /// Within 0 and 1.
    pub probability: f64,
}

/// What the model makes of a sentence.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The text's.
    pub characters: Vec<char>,
    /// The routing weight of each character.
    pub w: Vec<f32>,
    /// A score for each language.
    pub scores: Vec<f64>,
}

impl Model {
    /// The model in the bytes of its file.
    ///
    /// # Errors
    /// Names what the file lacks, or what does not fit.
    pub fn from_safetensors(bytes: &[u8]) -> anyhow::Result<Self> {
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let list = |key: &str| -> anyhow::Result<Vec<String>> {
            let value = header.metadata().as_ref().and_then(|metadata| metadata.get(key));
            Ok(value.with_context(|| format!("the model has no {key}"))?.split(',').map(str::to_owned).collect())
        };
        let (labels, names) = (list("labels")?, list("names")?);
        let checkpoint = Checkpoint::open(&[("the model", bytes)])?;
        let shape = checkpoint.shape("tokens.weight")?.to_vec();
        let tokens = checkpoint.values("tokens.weight")?.to_f32();
        let weights = Weights::from_checkpoint(&checkpoint.without(&["tokens.weight"]), "")?;
        let dimensions = weights.dimensions();
        let [buckets, features] = shape[..] else { anyhow::bail!("tokens.weight is {shape:?}") };
        ensure!(buckets > 0 && features == dimensions.input, "tokens.weight is {shape:?}, layer {dimensions}");
        ensure!(labels.len() == dimensions.output && names.len() == labels.len(), "{} labels", labels.len());
        Ok(Self { weights, labels, names, tokens, buckets })
    }

    /// The sentences' tokens, padded to the longest sentence.
    pub fn input(&self, sentences: &[&str]) -> Input<'static> {
        let features = self.weights.dimensions().input;
        let lengths: Vec<usize> = sentences.iter().map(|sentence| sentence.chars().count()).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let mut x = Vec::with_capacity(sentences.len() * longest * features);
        for (place, sentence) in sentences.iter().enumerate() {
            for bucket in buckets(sentence, self.buckets) {
                x.extend_from_slice(&self.tokens[bucket * features..][..features]);
            }
            x.resize((place + 1) * longest * features, 0.0);
        }
        let lengths = lengths.into_iter().map(|length| length as u32).collect();
        let x = Numbers::new(&x, vec![sentences.len(), longest, features]);
        Input { lengths: Some(lengths), ..Input::of_numbers(x) }
    }

    /// What the layer's results say about the sentences. Padding has weight 0, but y is d there, not 0: it is left out.
    pub fn readings(&self, sentences: &[&str], input: &Input<'_>, output: &Output) -> Vec<Reading> {
        let classes = self.labels.len();
        let longest = input.tokens_each();
        let reading = |(place, sentence): (usize, &&str)| {
            let characters: Vec<char> = sentence.chars().collect();
            let first = place * longest;
            let w = output.w[first..][..characters.len()].to_vec();
            let mut scores = vec![0.0; classes];
            for y in output.y[first * classes..].chunks_exact(classes).take(characters.len()) {
                scores.iter_mut().zip(y).for_each(|(score, &y)| *score += f64::from(y));
            }
            Reading { characters, w, scores }
        };
        sentences.iter().enumerate().map(reading).collect()
    }

    /// Every language, the most probable first.
    pub fn guesses(&self, reading: &Reading) -> Vec<Guess<'_>> {
        let mut guesses: Vec<_> = reading
            .probabilities()
            .into_iter()
            .zip(self.labels.iter().zip(&self.names))
            .map(|(probability, (label, name))| Guess { label, name, probability })
            .collect();
        guesses.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        guesses
    }
}

impl Reading {
    /// The language with the largest score; the first of equals.
    pub fn best(&self) -> usize {
        let mut best = 0;
        for (label, score) in self.scores.iter().enumerate() {
            if *score > self.scores[best] {
                best = label;
            }
        }
        best
    }

    /// Softmax of the scores.
    pub fn probabilities(&self) -> Vec<f64> {
        let largest = self.scores[self.best()];
        let powers: Vec<f64> = self.scores.iter().map(|score| (score - largest).exp()).collect();
        let sum: f64 = powers.iter().sum();
        powers.into_iter().map(|power| power / sum).collect()
    }

    /// The probability of the best language.
    pub fn confidence(&self) -> f64 {
        self.probabilities()[self.best()]
    }

    /// The characters, each with its weight in multiples of an even share.
    pub fn shares(&self) -> impl Iterator<Item = (char, f64)> {
        let even = self.characters.len() as f64;
        self.characters.iter().zip(&self.w).map(move |(&character, &w)| (character, f64::from(w) * even))
    }

    /// The text again.
    pub fn text(&self) -> String {
        self.characters.iter().collect()
    }
}

/// The row of the token table for each character: the hash of it and its neighbours.
fn buckets(sentence: &str, buckets: usize) -> impl Iterator<Item = usize> {
    let before = std::iter::once('\u{2}').chain(sentence.chars());
    let after = sentence.chars().skip(1).chain(std::iter::once('\u{3}'));
    before.zip(sentence.chars()).zip(after).map(move |((before, character), after)| {
        let trigram = String::from_iter([before, character, after]);
        fnv1a(trigram.as_bytes()) as usize % buckets
    })
}

/// The 32-bit FNV-1a hash.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::{buckets, fnv1a};

    #[test]
    fn hashes_are_the_published_ones() {
        assert_eq!([fnv1a(b""), fnv1a(b"a"), fnv1a(b"foobar")], [0x811c_9dc5, 0xe40c_292c, 0xbf9c_f968]);
    }

    #[test]
    fn every_character_has_its_neighbours() {
        let hashed = |trigram: &str| fnv1a(trigram.as_bytes()) as usize % 4096;
        let found: Vec<_> = buckets("aяb", 4096).collect();
        assert_eq!(found, [hashed("\u{2}aя"), hashed("aяb"), hashed("яb\u{3}")]);
        assert_eq!(buckets("", 4096).count(), 0);
    }
}
