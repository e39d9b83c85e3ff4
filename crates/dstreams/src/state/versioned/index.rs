//! Finds the newest row of a key: a hash table of row numbers that grows incrementally.
//!
//! Linear hashing over small tables: when [`Index`] has more rows than its tables should hold, one of them is
//! split in two. So growing never walks more than the rows of one table (some thousand), whatever the number of
//! keys. It costs about two hashes for each new key, evenly spread. A table takes 5 bytes per bucket and is 40 to
//! 87 % full. Tables are never joined: space of deleted keys stays for later ones.

use hashbrown::HashTable;

/// The position of the table's number in a hash: hashbrown uses the lowest bits and the highest seven.
const TABLE_SHIFT: u32 = 28;

pub(super) struct Index {
    tables: Vec<HashTable<u32>>,
    /// `tables.len()` is in `1 << level .. 2 << level`.
    level: u32,
    rows: usize,
    /// The most rows per table on average.
    table_rows: usize,
}

impl Index {
    pub fn new(table_rows: usize) -> Self {
        Index {
            tables: vec![HashTable::new()],
            level: 0,
            rows: 0,
            table_rows,
        }
    }

    #[inline]
    fn table(&self, hash: u64) -> usize {
        let number = (hash >> TABLE_SHIFT) as usize;
        let wide = number & ((2 << self.level) - 1);
        match wide < self.tables.len() {
            true => wide,
            false => wide & ((1 << self.level) - 1),
        }
    }

    /// The row with this hash for which `is` holds.
    #[inline]
    pub fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let table = &self.tables[self.table(hash)];
        table.find(hash, |row| is(*row)).copied()
    }

    /// A row that may have this hash: nearly always the wanted one, if it exists.
    ///
    /// Reads no keys, so that a loop over many hashes waits for several memory accesses at once.
    #[inline]
    pub fn guess(&self, hash: u64) -> Option<u32> {
        self.find(hash, |_| true)
    }

    /// Prefetches the memory for the lookups of many hashes.
    #[inline]
    pub fn fetch(&self, hashes: &[u64]) {
        let rows = hashes.iter().filter_map(|hash| self.guess(*hash));
        std::hint::black_box(rows.fold(0, |all, row| all ^ row));
    }

    /// Adds the row of a new key. `hash_of` returns the hash of any row in the index.
    pub fn insert(&mut self, hash: u64, row: u32, hash_of: impl Fn(u32) -> u64) {
        let table = self.table(hash);
        self.tables[table].insert_unique(hash, row, |row| hash_of(*row));
        self.rows += 1;
        if self.rows > self.table_rows * self.tables.len() {
            self.split(hash_of);
        }
    }

    /// Replaces `from` by `to`, or only removes `from`; returns whether it was there.
    pub fn replace(&mut self, hash: u64, from: u32, to: Option<u32>) -> bool {
        let table = self.table(hash);
        let Ok(mut entry) = self.tables[table].find_entry(hash, |row| *row == from) else {
            return false;
        };
        match to {
            Some(to) => *entry.get_mut() = to,
            None => {
                entry.remove();
                self.rows -= 1;
            }
        }
        true
    }

    /// Moves half of one table's rows to a new table.
    fn split(&mut self, hash_of: impl Fn(u32) -> u64) {
        let old = self.tables.len() - (1 << self.level);
        let moves = |row: &mut u32| (hash_of(*row) >> TABLE_SHIFT) as usize >> self.level & 1 == 1;
        let moved: Vec<u32> = self.tables[old].extract_if(moves).collect();
        let mut new = HashTable::with_capacity(moved.len());
        for row in moved {
            new.insert_unique(hash_of(row), row, |row| hash_of(*row));
        }
        self.tables.push(new);
        if self.tables.len() == 2 << self.level {
            self.level += 1;
        }
    }

    /// The number of rows.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.rows
    }

    /// The number of tables, and of rows in the fullest of them.
    #[cfg(test)]
    pub fn tables(&self) -> (usize, usize) {
        let fullest = self.tables.iter().map(HashTable::len).max();
        (self.tables.len(), fullest.unwrap_or(0))
    }

    /// Bytes of memory.
    pub fn memory(&self) -> usize {
        let tables = self.tables.iter().map(HashTable::allocation_size);
        let heads = self.tables.capacity() * size_of::<HashTable<u32>>();
        tables.sum::<usize>() + heads
    }
}
