//! The sentences that come with the command, which the model was not trained on; `examples/training/train.py` made them.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use double_routing_common::languages::Model;
use serde::{Deserialize, Serialize};

const HELD_OUT: &str = include_str!("../../data/held_out.tsv");
const RECORDED: &str = include_str!("../../data/held_out.json");

/// Sentences that the model was not trained on, and how it did in PyTorch.
#[derive(Debug)]
pub struct HeldOut {
    pub sentences: Vec<Sentence>,
    pub recorded: Recorded,
}

#[derive(Debug)]
pub struct Sentence {
    pub label: usize,
    pub predicted_by_torch: usize,
    pub text: &'static str,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Recorded {
    pub accuracy: f64,
    pub correct: usize,
    pub total: usize,
    pub majority_baseline: f64,
    pub torch: String,
    per_language: BTreeMap<String, PerLanguage>,
}

#[derive(Debug, Serialize, Deserialize)]
struct PerLanguage {
    correct: usize,
    total: usize,
}

impl HeldOut {
    /// The sentences in the command.
    pub fn embedded(model: &Model) -> anyhow::Result<Self> {
        let place = |label: &str| {
            model.labels.iter().position(|known| known == label).with_context(|| format!("no language {label}"))
        };
        let sentence = |line: &'static str| -> anyhow::Result<Sentence> {
            let mut fields = line.splitn(3, '\t');
            let mut next = || fields.next().with_context(|| format!("held out: '{line}' lacks a field"));
            Ok(Sentence { label: place(next()?)?, predicted_by_torch: place(next()?)?, text: next()? })
        };
        let sentences = HELD_OUT.lines().map(sentence).collect::<anyhow::Result<Vec<_>>>()?;
        let recorded: Recorded = serde_json::from_str(RECORDED)?;
        ensure!(sentences.len() == recorded.total, "{} sentences, {} recorded", sentences.len(), recorded.total);
        Ok(Self { sentences, recorded })
    }
}
