//! Tiles measured on one adapter, to be used instead of the table's.

use super::Tile;
use crate::{Error, Gpu, Result};

/// Which tile multiplies matrices of which size: rows of text, of which the first that fits a product, and that the device, the
/// factors' types and the kernel can use, is taken. A product that none fits gets its tile from the crate's own table.
///
/// `double-routing tune` measures one on an adapter; [`Gpu::with_tuning`](crate::Gpu::with_tuning) uses it. Empty lines and
/// those that begin with `#` are left out; the others are `rows<=N columns<=N TILE`, with `*` for any number, and `f16` before the tile of
/// products of f16 by f16 alone.
///
/// ```
/// use double_routing::kernels::Tuning;
/// let tuning: Tuning = "# a card\nrows<=16 columns<=* lanes 32x4 8x1\nrows<=* columns<=512 shared 8x8 8x2 16 1\n".parse()?;
/// assert_eq!(tuning.tile(16, 4096).map(|tile| tile.to_string()).as_deref(), Some("lanes 32x4 8x1"));
/// assert_eq!(tuning.tile(17, 4096), None);
/// assert_eq!(tuning.to_string().parse::<Tuning>()?, tuning);
/// let tuning: Tuning = "rows<=* columns<=* f16 cooperative 32x4 8x4 32 16".parse()?;
/// assert_eq!(tuning.tile(64, 64), None);
/// # Ok::<(), double_routing::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tuning(Vec<Row>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    rows: u64,
    columns: u64,
    /// Only for factors that are both f16.
    halves: bool,
    tile: Tile,
}

impl Tuning {
    /// Adds a row behind those there are: products of at most so many rows and columns get this tile. `u64::MAX` is any number.
    ///
    /// ```
    /// use double_routing::kernels::Tuning;
    /// let mut tuning = Tuning::default();
    /// tuning.push(16, u64::MAX, "lanes 32x4 8x1".parse()?);
    /// assert_eq!(tuning.to_string(), "rows<=16 columns<=* lanes 32x4 8x1\n");
    /// # Ok::<(), double_routing::Error>(())
    /// ```
    pub fn push(&mut self, rows: u64, columns: u64, tile: Tile) {
        self.0.push(Row { rows, columns, halves: false, tile });
    }

    /// The same for products of f16 by f16 alone, which matrix units may have a tile for that others cannot use.
    ///
    /// ```
    /// use double_routing::kernels::Tuning;
    /// let mut tuning = Tuning::default();
    /// tuning.push_halves(u64::MAX, 512, "cooperative 32x4 4x2 32 16".parse()?);
    /// assert_eq!(tuning.to_string(), "rows<=* columns<=512 f16 cooperative 32x4 4x2 32 16\n");
    /// # Ok::<(), double_routing::Error>(())
    /// ```
    pub fn push_halves(&mut self, rows: u64, columns: u64, tile: Tile) {
        self.0.push(Row { rows, columns, halves: true, tile });
    }

    /// The tile for a product of so many rows and columns, of factors of any type, if a row fits.
    ///
    /// ```
    /// assert_eq!(double_routing::kernels::Tuning::default().tile(1, 1), None);
    /// ```
    pub fn tile(&self, rows: u64, columns: u64) -> Option<Tile> {
        self.tiles(rows, columns, false).next()
    }

    /// Whether the device can run any of its tiles.
    ///
    /// ```no_run
    /// # use double_routing::{Gpu, kernels::Tuning};
    /// # fn tuned(gpu: &Gpu, tuning: Tuning) -> Option<Gpu> {
    /// tuning.suits(gpu).then(|| gpu.with_tuning(tuning))
    /// # }
    /// ```
    pub fn suits(&self, gpu: &Gpu) -> bool {
        self.0.iter().any(|row| row.tile.suits(gpu))
    }

    /// Those of all rows that fit, where the factors are both f16 or not.
    pub(crate) fn tiles(&self, rows: u64, columns: u64, halves: bool) -> impl Iterator<Item = Tile> {
        let fits = move |row: &&Row| rows <= row.rows && columns <= row.columns && (halves || !row.halves);
        self.0.iter().filter(fits).map(|row| row.tile)
    }
}

impl std::fmt::Display for Tuning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let most = |count: u64| if count == u64::MAX { "*".to_owned() } else { count.to_string() };
        self.0.iter().try_for_each(|Row { rows, columns, halves, tile }| {
            let element = if *halves { "f16 " } else { "" };
            writeln!(f, "rows<={} columns<={} {element}{tile}", most(*rows), most(*columns))
        })
    }
}

impl std::str::FromStr for Tuning {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut tuning = Self::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = || Error::Tuning(format!("line {}: '{line}', expected 'rows<=N columns<=N TILE'", number + 1));
            let most = |word: Option<&str>, name: &str| {
                let count = word?.strip_prefix(name)?.strip_prefix("<=")?;
                if count == "*" { Some(u64::MAX) } else { count.parse().ok() }
            };
            let mut words = line.splitn(3, ' ');
            let (rows, columns) = (most(words.next(), "rows"), most(words.next(), "columns"));
            let (Some(rows), Some(columns), Some(tile)) = (rows, columns, words.next()) else { return Err(wrong()) };
            let (halves, tile) = match tile.strip_prefix("f16 ") {
                Some(tile) => (true, tile),
                None => (false, tile),
            };
            let unknown = || Error::Tuning(format!("line {}: there is no tile '{tile}'", number + 1));
            let tile = Tile::named(tile).ok_or_else(unknown)?;
            tuning.0.push(Row { rows, columns, halves, tile });
        }
        Ok(tuning)
    }
}
