//! A factor of a product, laid out in panels.

/// The texels, four values each, of `a` `[batches, rows, depth]`, or where `transposed` `[batches, depth, rows]`: for each batch
/// and each panel of `panel` rows, for each quad of k, for each row of the panel, the quad. The rows of a panel are dealt into `runs`
/// runs, one after the other: row r is in run r mod `runs`. The quads of k are an even number. What lies past the last k or row is 0.
///
/// # Panics
/// Where `a` is shorter than its dimensions say.
///
/// ```
/// // Two rows of five, in one panel of four.
/// let texels = double_routing::reference::pack(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0], [1, 2, 5], false, [4, 1]);
/// assert_eq!(texels[..8], [1.0, 2.0, 3.0, 4.0, 6.0, 7.0, 8.0, 9.0]);
/// assert_eq!(texels[16..24], [5.0, 0.0, 0.0, 0.0, 10.0, 0.0, 0.0, 0.0]);
/// ```
pub fn pack(a: &[f64], [batches, rows, depth]: [usize; 3], transposed: bool, [panel, runs]: [usize; 2]) -> Vec<f64> {
    let mut texels = Vec::new();
    for batch in 0..batches {
        for first_row in (0..rows).step_by(panel) {
            for first_k in (0..depth.next_multiple_of(8)).step_by(4) {
                for run in 0..runs {
                    for row in (first_row..first_row + panel).skip(run).step_by(runs) {
                        for k in first_k..first_k + 4 {
                            let at = if transposed { k * rows + row } else { row * depth + k };
                            texels.push(if row < rows && k < depth { a[batch * rows * depth + at] } else { 0.0 });
                        }
                    }
                }
            }
        }
    }
    texels
}
