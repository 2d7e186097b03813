//! Slots sorted by path.

/// What comes of dispatching slots to paths.
///
/// ```
/// # fn show(dispatched: double_routing::reference::Dispatched) {
/// println!("{:?} slots of each path, {} kept", dispatched.counts, dispatched.offsets.last().unwrap());
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispatched {
    /// `[P]`: the slots of each path, dropped ones included.
    pub counts: Vec<u32>,
    /// `[P + 1]`: the slots that the paths before each keep.
    pub offsets: Vec<u32>,
    /// `[slots]`: the slots that are kept, path by path; `u32::MAX` behind them.
    pub order: Vec<u32>,
    /// `[slots]`: the place of each slot in `order`; `u32::MAX` where it has none.
    pub positions: Vec<u32>,
}

/// Sorts slots by the path that `ids` gives each; one of `paths` or more means none. Each path keeps the first `capacity`
/// of its slots, in the order of `sequence`, or in their own.
///
/// # Panics
/// Where the sequence names a slot that there is not.
///
/// ```
/// let dispatched = double_routing::reference::dispatch(&[1, 0, 1, 1, u32::MAX], 2, 2, None);
/// assert_eq!(dispatched.counts, [1, 3]);
/// assert_eq!(dispatched.offsets, [0, 1, 3]);
/// assert_eq!(dispatched.order, [1, 0, 2, u32::MAX, u32::MAX]);
/// assert_eq!(dispatched.positions, [1, 0, 2, u32::MAX, u32::MAX]);
/// ```
pub fn dispatch(ids: &[u32], paths: usize, capacity: u32, sequence: Option<&[u32]>) -> Dispatched {
    let mut of_paths = vec![Vec::new(); paths];
    for turn in 0..ids.len() {
        let slot = sequence.map_or(turn, |sequence| sequence[turn] as usize);
        if let Some(of_path) = of_paths.get_mut(ids[slot] as usize) {
            of_path.push(slot as u32);
        }
    }
    let counts = of_paths.iter().map(|of_path| of_path.len() as u32).collect();
    let mut offsets = vec![0];
    let mut order = Vec::with_capacity(ids.len());
    for of_path in of_paths {
        order.extend(of_path.into_iter().take(capacity as usize));
        offsets.push(order.len() as u32);
    }
    let mut positions = vec![u32::MAX; ids.len()];
    for (position, &slot) in order.iter().enumerate() {
        positions[slot as usize] = position as u32;
    }
    order.resize(ids.len(), u32::MAX);
    Dispatched { counts, offsets, order, positions }
}
