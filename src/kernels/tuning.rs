//! Tiles measured on one adapter, to be used instead of the table's.

use super::Tile;
use crate::{Error, Result};

/// Which tile multiplies matrices of which size: rows of text, of which the first that fits a product, and that the device, the
/// factors' types and the kernel can use, is taken. A product that none fits gets its tile from the crate's own table.
///
/// `double-routing tune` measures one on an adapter; [`Gpu::with_tuning`](crate::Gpu::with_tuning) uses it. Empty lines and
/// those that begin with `#` are left out; the others are `rows<=N columns<=N TILE`, with `*` for any number.
///
/// ```
/// use double_routing::kernels::Tuning;
/// let tuning: Tuning = "# a card\nrows<=16 columns<=* lanes 32x4 8x1\nrows<=* columns<=512 shared 8x8 8x2 16 1\n".parse()?;
/// assert_eq!(tuning.tile(16, 4096).map(|tile| tile.to_string()).as_deref(), Some("lanes 32x4 8x1"));
/// assert_eq!(tuning.tile(17, 4096), None);
/// assert_eq!(tuning.to_string().parse::<Tuning>()?, tuning);
/// # Ok::<(), double_routing::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tuning(Vec<Row>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    rows: u64,
    columns: u64,
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
        self.0.push(Row { rows, columns, tile });
    }

    /// The tile for a product of so many rows and columns, if a row fits.
    ///
    /// ```
    /// assert_eq!(double_routing::kernels::Tuning::default().tile(1, 1), None);
    /// ```
    pub fn tile(&self, rows: u64, columns: u64) -> Option<Tile> {
        self.tiles(rows, columns).next()
    }

    /// Those of all rows that fit.
    pub(crate) fn tiles(&self, rows: u64, columns: u64) -> impl Iterator<Item = Tile> {
        self.0.iter().filter(move |row| rows <= row.rows && columns <= row.columns).map(|row| row.tile)
    }
}

impl std::fmt::Display for Tuning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let most = |count: u64| if count == u64::MAX { "*".to_owned() } else { count.to_string() };
        self.0
            .iter()
            .try_for_each(|row| writeln!(f, "rows<={} columns<={} {}", most(row.rows), most(row.columns), row.tile))
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
            let tile = Tile::named(tile).ok_or_else(wrong)?;
            tuning.push(rows, columns, tile);
        }
        Ok(tuning)
    }
}
