//! What Metal's compiler would get wrong or refuse, found in the text: there is no Metal compiler but Apple's own.

use std::collections::HashMap;

/// Index of the last buffer that a function may have, and one.
const BUFFERS: u32 = 31;
/// Threads of a group: what WebGPU promises; Metal has at least 512.
const THREADS: u32 = 256;
/// Bytes of a group's memory, on the oldest of Apple's GPUs with compute; later ones have twice that.
pub const GROUP_MEMORY: u32 = 16 << 10;

/// The largest half.
const HALF: f32 = 65504.0;

/// Functions of a subgroup, by the beginning of their names, and the version of the language that has them on macOS and iOS.
const SUBGROUP_FUNCTIONS: &[(&str, (u32, u32))] = &[
    ("simd_sum", (2, 3)),
    ("simd_product", (2, 3)),
    ("simd_minimum", (2, 3)),
    ("simd_min", (2, 3)),
    ("simd_max", (2, 3)),
    ("simd_and", (2, 3)),
    ("simd_or", (2, 3)),
    ("simd_xor", (2, 3)),
    ("simd_prefix_", (2, 3)),
    ("simd_shuffle_and_fill", (2, 4)),
    ("simd_shuffle", (2, 2)),
    ("simd_broadcast", (2, 2)),
    ("simd_ballot", (2, 2)),
    ("simd_vote", (2, 2)),
    ("simd_all", (2, 2)),
    ("simd_any", (2, 2)),
    ("simd_is_first", (2, 2)),
    ("simd_active_threads_mask", (2, 2)),
    ("simdgroup_barrier", (2, 0)),
    ("simdgroup_index_in_threadgroup", (2, 2)),
    ("quad_", (2, 1)),
];

/// What is wrong with a shader whose group has so many threads, and so many bytes of memory of the `most` there may be.
pub fn lint(text: &str, threads: u32, group_memory: u32, most: u32) -> Vec<String> {
    let mut problems = Vec::new();
    let version = language(text);
    if version.is_none() {
        problems.push("no version of the language".into());
    }
    if threads > THREADS {
        problems.push(format!("{threads} threads in a group, of {THREADS}"));
    }
    if group_memory > most {
        problems.push(format!("{group_memory} bytes of threadgroup memory, of {most}"));
    }
    let values = temporaries(text);
    for line in text.lines() {
        let code = line.split("//").next().unwrap_or_default();
        for word in code.split(|character: char| !character.is_alphanumeric() && character != '_') {
            problems.extend(word_problem(word, version).map(|problem| format!("{problem}: {}", line.trim())));
        }
        for literal in code.split(delimiter).filter_map(|literal| literal.strip_suffix('h')) {
            if literal.parse::<f32>().is_ok_and(|value| value > HALF) {
                problems.push(format!("beyond half's range: {}", line.trim()));
            }
        }
        if let Some((_, index)) = code.split_once("[[buffer(") {
            let index: Option<u32> = index.split(')').next().and_then(|index| index.parse().ok());
            if index.is_none_or(|index| index >= BUFFERS) {
                problems.push(format!("more than {BUFFERS} buffers: {}", line.trim()));
            }
        }
        for operator in [" != ", " == "] {
            for (at, _) in code.match_indices(operator) {
                let left = code[..at].rsplit(delimiter).next().unwrap_or_default();
                let right = code[at + operator.len()..].split(delimiter).next().unwrap_or_default();
                let value = |name| values.get(name).copied().unwrap_or(name);
                if !left.is_empty() && value(left) == value(right) {
                    problems.push(format!("compares with itself, which fast math takes for known: {}", line.trim()));
                }
            }
        }
        for literal in code.split("as_type<float>(").skip(1) {
            let bits = literal.split(')').next().and_then(|bits| bits.strip_suffix('u')?.parse().ok());
            if bits.is_some_and(|bits| !f32::from_bits(bits).is_finite()) {
                problems.push(format!("NaN or infinity, which fast math takes for impossible: {}", line.trim()));
            }
        }
    }
    problems
}

fn delimiter(character: char) -> bool {
    !(character.is_alphanumeric() || matches!(character, '_' | '.' | '[' | ']'))
}

fn word_problem(word: &str, version: Option<(u32, u32)>) -> Option<String> {
    match word {
        "isnan" | "isinf" | "isfinite" | "isnormal" | "isordered" | "isunordered" | "INFINITY" | "NAN"
        | "HUGE_VALF" | "infinity" | "nan" => Some("NaN or infinity, which fast math takes for impossible".into()),
        "double" => Some("Metal has no double".into()),
        "atomic_ulong" | "atomic_long" | "atomic_double" => Some("atomics of 64 bits, which few GPUs have".into()),
        "atomic_float" => Some("atomics of floats, whose sums depend on their order".into()),
        "long" | "ulong" if version < Some((2, 3)) => Some("64-bit integers need version 2.3".into()),
        _ if word.starts_with("simd_") || word.starts_with("simdgroup_") || word.starts_with("quad_") => {
            match SUBGROUP_FUNCTIONS.iter().find(|(beginning, _)| word.starts_with(beginning)) {
                None => Some(format!("{word} is in no list of what Metal has")),
                Some((_, needed)) if version < Some(*needed) => Some(format!("{word} needs version {needed:?}")),
                Some(_) => None,
            }
        }
        _ => None,
    }
}

/// The version that naga writes into the first line.
fn language(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.lines().next()?.strip_prefix("// language: metal")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// What naga's temporaries stand for.
fn temporaries(text: &str) -> HashMap<&str, &str> {
    let declared = |line: &'_ str| -> Option<(usize, usize)> {
        let (before, value) = line.split_once(" = ")?;
        let name = before.rsplit(' ').next()?;
        name.starts_with("_e").then_some((name.len(), value.len()))
    };
    text.lines()
        .filter_map(|line| {
            let (name, value) = declared(line)?;
            let before = line.len() - value - " = ".len();
            Some((&line[before - name..before], line[line.len() - value..].trim_end_matches(';')))
        })
        .collect()
}

#[test]
fn every_rule_finds_what_it_is_for() {
    const FIRST: &str = "// language: metal2.3\n";
    let problems = |text: &str| lint(&format!("{FIRST}{text}"), 64, 1024, GROUP_MEMORY);
    let found = |text: &str, what: &str| {
        let problems = problems(text);
        assert!(problems.len() == 1 && problems[0].contains(what), "{text}: {problems:?}");
    };
    // What the shaders are full of is no problem.
    for fine in [
        "device float const* x [[buffer(30)]]",
        "float _e5 = a[i];\nfloat _e6 = a[j];\nbool less = _e5 != _e6;",
        "float sum = metal::simd_sum(x); uint other = metal::simd_shuffle_xor(y, 1u);",
        "ulong word = 5uL; metal::atomic_uint count; half one = 1.0h;",
        "float one = as_type<float>(1065353216u); // isnan",
        "if (at == 0u) { threadgroup_barrier(mem_flags::mem_threadgroup); }",
        "int nano = 1; float x = metal::max(a, b);",
    ] {
        assert_eq!(problems(fine), [""; 0], "{fine}");
    }

    found("bool odd = metal::isnan(x);", "NaN or infinity");
    found("float most = -INFINITY;", "NaN or infinity");
    found("float none = NAN;", "NaN or infinity");
    found("float most = as_type<float>(4286578688u);", "NaN or infinity");
    found("bool odd = x != x;", "compares with itself");
    found("bool odd = (x.y[3] == x.y[3]);", "compares with itself");
    found("float _e5 = x;\nfloat _e6 = x;\nbool odd = _e5 != _e6;", "compares with itself");
    found("device float* x [[buffer(31)]]", "more than 31 buffers");
    found("metal::atomic_ulong count;", "64 bits");
    found("metal::atomic_float sum;", "atomics of floats");
    found("double x = 1.0;", "no double");
    found("half x = 65536.0h;", "beyond half's range");
    found("x = metal::simd_shuffle_and_fill_up(x, y, 1u);", "needs version (2, 4)");
    found("x = metal::simd_magic(x);", "in no list");

    let older = |text: &str| lint(&format!("// language: metal2.1\n{text}"), 64, 1024, GROUP_MEMORY);
    assert!(older("x = metal::simd_sum(x);")[0].contains("needs version (2, 3)"));
    assert!(older("ulong x = 0uL;")[0].contains("need version 2.3"));
    assert!(lint("kernel void main_() {}", 64, 1024, GROUP_MEMORY)[0].contains("no version"));
    assert!(lint(FIRST, 257, 1024, GROUP_MEMORY)[0].contains("257 threads"));
    assert!(lint(FIRST, 256, 16_385, GROUP_MEMORY)[0].contains("16385 bytes"));
    assert_eq!(lint(FIRST, 256, 16_384, GROUP_MEMORY), [""; 0]);
}
