//! storaged alone, beside what the machine allows and what a user could take instead.
//!
//! Every program works in one directory of one disk, and clients share the cores with it. In each round the contenders
//! take turns, so that what the machine does otherwise meets all of them.

mod files;
mod goals;
mod inner;
mod machine;
pub(super) mod nginx;
mod postgres;
mod ranges;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use culvert_netns::store::{Layout, Store};
use culvert_netns::world::World;

use super::figures::{Figures, Row};
use goals::{Goal, Of};

/// How much and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How often each contender is measured, in turn; 1 with --quick
    #[arg(long)]
    rounds: Option<u32>,
    /// The size of the file that goes up and down, in MiB; 256 with --quick
    #[arg(long)]
    mebibytes: Option<u64>,
    /// The size of the file that ranges are read from, in MiB; 1024 with --quick
    #[arg(long)]
    big: Option<u64>,
    /// Records of the long ledger; 100,000 with --quick
    #[arg(long)]
    records: Option<u64>,
    /// Seconds for each rate; 1 with --quick
    #[arg(long)]
    seconds: Option<u64>,
    /// A look in three minutes
    #[arg(long)]
    quick: bool,
    /// Only this part; can be given several times
    #[arg(long, value_enum, value_name = "PART")]
    part: Vec<Part>,
    /// Also write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// The limits of hash, cipher and disk, and the pipeline in process
    Machine,
    /// One large file, beside nginx
    Large,
    /// 64 KiB files, beside the bare loop and nginx
    Small,
    /// Durable records, beside PostgreSQL
    Records,
    /// A long ledger: its size, a start on it
    Long,
    /// Ranges of a large file
    Ranges,
}

impl Options {
    fn wants(&self, part: Part) -> bool {
        self.part.is_empty() || self.part.contains(&part)
    }

    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 }).max(1)
    }

    fn file_mebibytes(&self) -> u64 {
        self.mebibytes.unwrap_or(if self.quick { 256 } else { 1024 }).max(1)
    }

    fn big_mebibytes(&self) -> u64 {
        self.big.unwrap_or(if self.quick { 1024 } else { 10 * 1024 }).max(1)
    }

    fn records(&self) -> u64 {
        self.records.unwrap_or(if self.quick { 100_000 } else { 1_000_000 }).max(1)
    }

    fn seconds(&self) -> u64 {
        self.seconds.unwrap_or(if self.quick { 1 } else { 3 }).max(1)
    }
}

const OURS: &str = "storaged";
const NGINX: &str = "nginx";
const BARE: &str = "bare loop";
const LIMIT: &str = "this machine";
const POSTGRES: &str = "PostgreSQL";

const GOALS: &[Goal] = &[
    Goal {
        what: "the pipeline in process beside SHA-256 alone",
        of: Of { row: inner::SEAL, contender: OURS },
        to: Of { row: machine::HASH, contender: LIMIT },
        least: 0.6,
    },
    Goal {
        what: "PUT of one file beside nginx WebDAV",
        of: Of { row: files::PUT, contender: OURS },
        to: Of { row: files::PUT, contender: NGINX },
        least: 1.0,
    },
    Goal {
        what: "64 KiB puts by 8 writers beside the bare loop",
        of: Of { row: files::SMALL[1].1, contender: OURS },
        to: Of { row: files::SMALL[1].1, contender: BARE },
        least: 0.6,
    },
    Goal {
        what: "64 KiB puts by 64 writers beside the bare loop",
        of: Of { row: files::SMALL[2].1, contender: OURS },
        to: Of { row: files::SMALL[2].1, contender: BARE },
        least: 0.6,
    },
    Goal {
        what: "durable records by 16 writers beside PostgreSQL",
        of: Of { row: postgres::RECORDS[1].1, contender: OURS },
        to: Of { row: postgres::RECORDS[1].1, contender: POSTGRES },
        least: 1.2,
    },
];

/// Outside of the world: the programs of others.
pub(crate) fn provide() -> Result<()> {
    nginx::provide()?;
    postgres::provide()
}

/// A part of the run: its figures, and whose they are.
struct Section {
    title: &'static str,
    contenders: &'static [&'static str],
    figures: Figures,
}

impl Section {
    fn new(title: &'static str, contenders: &'static [&'static str]) -> Section {
        Section { title, contenders, figures: Figures::default() }
    }
}

pub(crate) fn run(options: &Options, world: &World) -> Result<()> {
    let mut machine = Section::new("what this machine allows", &[LIMIT]);
    let mut large = Section::new("one large file", &[OURS, NGINX]);
    let mut small = Section::new("small files", &[OURS, BARE, NGINX]);
    let mut records = Section::new("records, each durable before its answer", &[OURS, POSTGRES]);
    let mut long = Section::new("a long ledger", &[OURS, LIMIT]);
    let mut ranges = Section::new("ranges of a large file", &[OURS, LIMIT]);
    let data = world.data();
    for round in 1..=options.rounds() {
        println!("round {round} of {}", options.rounds());
        if options.wants(Part::Machine) {
            println!("round {round}: the machine's limits");
            machine::measure(&data.join("machine"), options, &mut machine.figures)?;
            inner::pipeline(options, &mut large.figures)?;
        }
        if options.wants(Part::Large) {
            println!("round {round}: one file of {} MiB", options.file_mebibytes());
            files::large(&data.join("large"), options, &mut large.figures)?;
        }
        if options.wants(Part::Small) {
            println!("round {round}: 64 KiB files");
            files::small(&data.join("small"), options, &mut small.figures)?;
        }
        if options.wants(Part::Records) {
            println!("round {round}: records");
            inner::records(&data.join("ledger"), options, &mut records.figures)?;
            postgres::measure(&data.join("postgres"), options, &mut records.figures)?;
        }
    }
    if options.wants(Part::Long) {
        println!("a ledger of {} records", options.records());
        inner::long_ledger(&data.join("long"), options, &mut long.figures)?;
    }
    if options.wants(Part::Ranges) {
        println!("ranges of a file of {} MiB", options.big_mebibytes());
        ranges::measure(&data.join("ranges"), options, &mut ranges.figures)?;
    }
    report(options, &[machine, large, small, records, long, ranges])
}

fn report(options: &Options, sections: &[Section]) -> Result<()> {
    println!(
        "\n{} rounds; files of {} MiB and {} MiB, {} records; clients and servers share this machine's cores and its disk",
        options.rounds(),
        options.file_mebibytes(),
        options.big_mebibytes(),
        options.records()
    );
    for section in sections.iter().filter(|section| !section.figures.is_empty()) {
        print!("\n{}\n\n{}", section.title, section.figures.table(section.contenders));
    }
    println!();
    let all: Vec<&Figures> = sections.iter().map(|section| &section.figures).collect();
    let judged = goals::judge(GOALS, &all);
    for line in &judged {
        println!("{line}");
    }
    if let Some(path) = &options.json {
        let figures: Vec<_> = all.iter().flat_map(|figures| figures.json()).collect();
        let text = serde_json::json!({"figures": figures, "goals": judged});
        fs::write(path, format!("{text:#}\n")).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// A store with room for many clients, in a directory that is made for it.
fn new_store(folder: &std::path::Path) -> Result<Store> {
    let mut layout = Layout::below(folder)?;
    layout.limits.push_str("transfers = 128\nconnections = 512\n");
    Store::init(layout)
}

const fn row(name: &'static str, digits: usize) -> Row {
    Row { name, digits }
}

#[expect(clippy::cast_precision_loss, reason = "rates for people to read")]
fn float(count: u64) -> f64 {
    count as f64
}

fn megabytes(mebibytes: u64) -> f64 {
    float(mebibytes << 20) / 1e6
}
