//! LCS: the longest common subsequence of two values.
//!
//! The textbook table of all prefixes, four bytes a cell. As in Redis it may be as large as a value, which bounds memory
//! and time; it is walked back from its end in Redis's order, so where several subsequences are longest, the same one
//! is found. The table may be made in portions: see [`LongRead`](crate::LongRead).

use bytes::Bytes;
use dstore_resp::Reply;

use crate::context::errors;
use crate::evaluation::{Command, Evaluation, Stop};
use crate::number::parse_i64;

/// The options of LCS.
#[derive(Default)]
struct Options {
    len: bool,
    index: bool,
    match_len: bool,
    match_len_min: usize,
}

impl Options {
    fn parse(args: &[Bytes]) -> Result<Options, Stop> {
        let mut options = Options::default();
        let mut rest = args.iter();
        while let Some(option) = rest.next() {
            match option.to_ascii_uppercase().as_slice() {
                b"IDX" => options.index = true,
                b"LEN" => options.len = true,
                b"WITHMATCHLEN" => options.match_len = true,
                b"MINMATCHLEN" => {
                    let len = rest.next().ok_or_else(|| Stop::error(errors::SYNTAX))?;
                    let len = parse_i64(len).ok_or_else(|| Stop::error(errors::NOT_AN_INTEGER))?;
                    options.match_len_min = usize::try_from(len.max(0)).expect("not negative");
                }
                _ => return Err(Stop::error(errors::SYNTAX)),
            }
        }
        if options.index && options.len {
            return Err(Stop::error("ERR If you want both the length and indexes, please just use IDX."));
        }
        Ok(options)
    }
}

/// `LCS key1 key2 [LEN] [IDX] [MINMATCHLEN n] [WITHMATCHLEN]`
pub(crate) fn lcs(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let mut comparison = Comparison::begin(evaluation, command.args)?;
    comparison.go_on(usize::MAX);
    Ok(comparison.reply())
}

/// LCS under way.
pub(crate) struct Comparison {
    first: Bytes,
    second: Bytes,
    options: Options,
    table: Table,
}

impl Comparison {
    pub(crate) fn begin(evaluation: &Evaluation<'_>, args: &[Bytes]) -> Result<Comparison, Stop> {
        let (first, second) = (evaluation.read(&args[1])?, evaluation.read(&args[2])?);
        let options = Options::parse(&args[3..])?;
        let lens = [&first, &second].map(|record| record.as_ref().map_or(0, |record| record.len()));
        let cells = (lens[0] as u64 + 1).saturating_mul(lens[1] as u64 + 1);
        if cells.saturating_mul(4) > evaluation.context.limits.value_bytes_max as u64 {
            return Err(Stop::error(errors::LCS_TOO_LONG));
        }
        let view = evaluation.view;
        let value =
            |record: Option<crate::value::Record>| record.map_or(Ok(Bytes::new()), |record| record.into_value(view));
        let (first, second) = (value(first)?, value(second)?);
        let table = Table::new(&first, &second);
        Ok(Comparison { first, second, options, table })
    }

    /// Fills about so many cells of the table, at least a row. True once all are.
    pub(crate) fn go_on(&mut self, cells: usize) -> bool {
        self.table.fill(&self.first, &self.second, (cells / self.table.width).saturating_add(1))
    }

    /// The answer, of a table that is full.
    pub(crate) fn reply(&self) -> Reply {
        let Comparison { first, second, options, table } = self;
        if options.len {
            return Reply::Integer(table.at(first.len(), second.len()).into());
        }
        let found = table.trace(first, second);
        if options.index {
            return index_reply(&found, options);
        }
        let mut text = Vec::with_capacity(found.iter().map(|found| found.len).sum());
        for found in found.iter().rev() {
            text.extend_from_slice(&first[found.first..found.first + found.len]);
        }
        Reply::Bulk(Bytes::from(text))
    }
}

fn index_reply(found: &[Match], options: &Options) -> Reply {
    let wanted = found.iter().filter(|found| found.len >= options.match_len_min);
    let matches = wanted.map(|found| {
        let range = |start: usize| {
            Reply::Array(vec![Reply::Integer(start as i64), Reply::Integer((start + found.len - 1) as i64)])
        };
        let mut parts = vec![range(found.first), range(found.second)];
        if options.match_len {
            parts.push(Reply::Integer(found.len as i64));
        }
        Reply::Array(parts)
    });
    let len: usize = found.iter().map(|found| found.len).sum();
    Reply::Map(vec![
        (Reply::bulk_static("matches"), Reply::Array(matches.collect())),
        (Reply::bulk_static("len"), Reply::Integer(len as i64)),
    ])
}

/// Bytes that both values have in a row.
struct Match {
    /// Where they begin in the first value, and in the second.
    first: usize,
    second: usize,
    len: usize,
}

/// For each pair of prefixes the length of their longest common subsequence.
struct Table {
    cells: Vec<u32>,
    width: usize,
    /// Rows that are filled; the first, of the empty prefix, is from the beginning.
    rows: usize,
}

impl Table {
    fn new(first: &[u8], second: &[u8]) -> Table {
        let width = second.len() + 1;
        // Memory is first touched as rows are filled: to clear all of it takes longer than a portion should.
        let mut cells = Vec::with_capacity((first.len() + 1) * width);
        cells.resize(width, 0);
        Table { cells, width, rows: 1 }
    }

    /// Fills so many more rows. True once all are.
    fn fill(&mut self, first: &[u8], second: &[u8], rows: usize) -> bool {
        let until = self.rows.saturating_add(rows).min(first.len() + 1);
        for at in self.rows..until {
            let byte = first[at - 1];
            self.cells.resize((at + 1) * self.width, 0);
            let (above, row) = self.cells[(at - 1) * self.width..(at + 1) * self.width].split_at_mut(self.width);
            let mut left = 0;
            for ((other, cell), pair) in second.iter().zip(&mut row[1..]).zip(above.windows(2)) {
                left = if byte == *other { pair[0] + 1 } else { pair[1].max(left) };
                *cell = left;
            }
        }
        self.rows = until;
        until == first.len() + 1
    }

    fn at(&self, first: usize, second: usize) -> u32 {
        self.cells[first * self.width + second]
    }

    /// The matches that make up the subsequence, the last one first.
    fn trace(&self, first: &[u8], second: &[u8]) -> Vec<Match> {
        let (mut i, mut j) = (first.len(), second.len());
        let mut found: Vec<Match> = Vec::new();
        let mut in_match = false;
        while i > 0 && j > 0 {
            if first[i - 1] == second[j - 1] {
                (i, j) = (i - 1, j - 1);
                match found.last_mut() {
                    Some(last) if in_match => *last = Match { first: i, second: j, len: last.len + 1 },
                    _ => found.push(Match { first: i, second: j, len: 1 }),
                }
                in_match = true;
            } else {
                in_match = false;
                if self.at(i - 1, j) > self.at(i, j - 1) { i -= 1 } else { j -= 1 }
            }
        }
        found
    }
}
