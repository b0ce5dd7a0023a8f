//! Where the cells are: the CPUs as rows of tiles of cores, however large a cell is.

use knlfix_core::topology::Cpu;

/// Sizes in characters or in pixels.
pub(crate) struct Measure {
    /// One CPU.
    pub(crate) cell: usize,
    /// Between the CPUs of a core.
    pub(crate) between_cells: usize,
    /// Between the cores of a tile.
    pub(crate) between_cores: usize,
    /// Between tiles.
    pub(crate) between_tiles: usize,
    /// A whole row.
    pub(crate) room: usize,
}

/// A NUMA node.
pub(crate) struct Section<'a> {
    pub(crate) cpus: &'a [Cpu],
    pub(crate) rows: Vec<Row<'a>>,
}

pub(crate) type Row<'a> = Vec<Tile<'a>>;

/// The cores of a tile; of a tile that is longer than a row, a part.
pub(crate) type Tile<'a> = Vec<&'a [Cpu]>;

impl Measure {
    fn core(&self, core: &[Cpu]) -> usize {
        joined(core.iter().map(|_| self.cell), self.between_cells)
    }

    pub(crate) fn tile(&self, tile: &Tile<'_>) -> usize {
        joined(tile.iter().map(|core| self.core(core)), self.between_cores)
    }

    /// The CPUs by node, in rows that have room for them.
    pub(crate) fn sections<'a>(&self, cpus: &'a [Cpu]) -> Vec<Section<'a>> {
        let nodes = cpus.chunk_by(|a, b| (a.package, a.node) == (b.package, b.node));
        nodes.map(|cpus| Section { cpus, rows: self.rows(&tiles(cpus)) }).collect()
    }

    fn rows<'a>(&self, tiles: &[Tile<'a>]) -> Vec<Row<'a>> {
        if tiles.iter().all(|tile| self.tile(tile) <= self.room) {
            return self.filled(tiles, |tile| self.tile(tile), self.between_tiles);
        }
        // A tile that is longer than a row begins a new one, and so does the next.
        let parts = tiles.iter().flat_map(|tile| self.filled(tile, |core| self.core(core), self.between_cores));
        parts.map(|part| vec![part]).collect()
    }

    /// Puts `items` into rows, as many as fit; if that makes equal rows, somewhat fewer.
    fn filled<T: Clone>(&self, items: &[T], width: impl Fn(&T) -> usize, between: usize) -> Vec<Vec<T>> {
        let mut rows = vec![];
        let mut rest = items;
        while !rest.is_empty() {
            let fit = (1..=rest.len()).take_while(|&n| joined(rest[..n].iter().map(&width), between) <= self.room);
            let fit = fit.last().unwrap_or(1);
            let even = (fit / 2 + 1..=fit).rev().find(|&n| items.len().is_multiple_of(n));
            let (row, after) = rest.split_at(even.unwrap_or(fit));
            rows.push(row.to_vec());
            rest = after;
        }
        rows
    }
}

/// Where no cache is shared by a few cores, so that each would be a tile of its own, they all are one.
fn tiles(cpus: &[Cpu]) -> Vec<Tile<'_>> {
    let cores = |cpus| <[Cpu]>::chunk_by(cpus, |a, b| a.core == b.core).collect::<Vec<_>>();
    let tiles = cpus.chunk_by(|a, b| a.tile == b.tile).map(cores).collect::<Vec<_>>();
    if tiles.iter().all(|tile| tile.len() == 1) { vec![cores(cpus)] } else { tiles }
}

fn joined(widths: impl ExactSizeIterator<Item = usize>, between: usize) -> usize {
    let gaps = widths.len().saturating_sub(1) * between;
    widths.sum::<usize>() + gaps
}

#[cfg(test)]
mod tests {
    use super::super::made_up::node;
    use super::*;

    fn measure(cell: usize) -> Measure {
        Measure { cell, between_cells: 1, between_cores: 2, between_tiles: 3, room: 71 }
    }

    fn cores_in_rows(cell: usize, cpus: &[Cpu]) -> Vec<Vec<usize>> {
        let sections = measure(cell).sections(cpus);
        sections.iter().map(|section| section.rows.iter().map(|row| row.iter().map(Vec::len).sum()).collect()).collect()
    }

    #[test]
    fn every_cpu_has_one_cell_and_no_row_is_too_long() {
        for cpus in [node(1, 34, 2, 4), node(2, 8, 8, 2), node(4, 1, 132, 2), node(1, 1, 1, 1), node(3, 5, 7, 3)] {
            for cell in 1..=5 {
                let measure = measure(cell);
                let sections = measure.sections(&cpus);
                let rows = || sections.iter().flat_map(|section| &section.rows);
                assert!(rows().all(|row| joined(row.iter().map(|tile| measure.tile(tile)), 3) <= measure.room));
                let drawn = rows().flatten().flatten().copied().flatten().copied().collect::<Vec<_>>();
                assert_eq!(drawn, cpus);
            }
        }
    }

    #[test]
    fn rows_are_equal_where_that_costs_less_than_half_of_a_row() {
        let narrow = Measure { between_cells: 0, between_cores: 1, ..measure(1) };
        let tiles = |cpus: &[Cpu]| {
            let row = |row: &Row<'_>| (row.len(), row.iter().map(Vec::len).sum::<usize>());
            narrow.sections(cpus).iter().map(|section| section.rows.iter().map(row).collect()).collect::<Vec<Vec<_>>>()
        };
        // 24 cores of two CPUs would fit, 16 divide 64.
        assert_eq!(tiles(&node(2, 1, 64, 2)), [[(1, 16); 4]; 2]);
        // 6 tiles of two cores fit, but neither 6 nor 5 nor 4 divide 34.
        assert_eq!(tiles(&node(1, 34, 2, 4)), [[[(6, 12); 5].as_slice(), &[(4, 8)]].concat()]);
    }

    #[test]
    fn a_tile_is_divided_only_if_it_is_longer_than_a_row_and_then_begins_one() {
        assert_eq!(cores_in_rows(1, &node(1, 2, 18, 2)), [[9, 9, 9, 9]]);
        assert_eq!(cores_in_rows(1, &node(1, 3, 8, 2)), [[8, 8, 8]]);
    }

    #[test]
    fn cores_that_share_no_cache_stand_together() {
        let cpus = node(1, 6, 1, 2);
        assert_eq!(measure(1).sections(&cpus)[0].rows[0][0].len(), 6);
    }
}
