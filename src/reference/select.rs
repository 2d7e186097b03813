//! The largest of each row, in order.

/// The indices and values of the `k` largest of each row of `x` (`[rows, length]`), in the order of a stable sort: larger first, of
/// equals the one with the lower index, −0 and +0 being equal. Of row `r` only the first `lengths[r]` positions count; what
/// is then short of `k` is index `u32::MAX` with value 0.
///
/// # Panics
/// Where `x` is no whole number of rows, or `lengths` is shorter than there are rows.
///
/// ```
/// let x = [3.0, 7.0, 7.0, -1.0, /* and */ 5.0, 6.0, 8.0, 9.0];
/// let (indices, values) = double_routing::reference::select(&x, 2, 4, 3, Some(&[4, 2]));
/// assert_eq!(indices, [1, 2, 0, 1, 0, u32::MAX]);
/// assert_eq!(values, [7.0, 7.0, 3.0, 6.0, 5.0, 0.0]);
/// ```
pub fn select(x: &[f32], rows: usize, length: usize, k: usize, lengths: Option<&[u32]>) -> (Vec<u32>, Vec<f32>) {
    assert_eq!(x.len(), rows * length, "x has {} elements, expected {rows} rows of {length}", x.len());
    let (mut indices, mut values) = (Vec::with_capacity(rows * k), Vec::with_capacity(rows * k));
    for row in 0..rows {
        let x = &x[row * length..(row + 1) * length];
        let unmasked = lengths.map_or(length, |lengths| (lengths[row] as usize).min(length));
        let mut order: Vec<usize> = (0..unmasked).collect();
        // As numbers, so that −0 equals +0; what has no order, NaN, is left where it is.
        order.sort_by(|&a, &b| x[b].partial_cmp(&x[a]).unwrap_or(std::cmp::Ordering::Equal));
        for place in 0..k {
            let at = order.get(place);
            indices.push(at.map_or(u32::MAX, |&at| at as u32));
            values.push(at.map_or(0.0, |&at| x[at]));
        }
    }
    (indices, values)
}
