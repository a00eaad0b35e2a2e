//! Runs scenarios one after the other, each in a world of its own, and reports like libtest.
//!
//! The process that cargo starts makes no namespace. For each scenario it starts a world whose pid 1 is this
//! executable again; what that prints is shown when the scenario fails, together with the daemons' logs.

use std::any::Any;
use std::env;
use std::ffi::OsString;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

use crate::host;
use crate::lab::{self, Lab};
use crate::log::Log;
use crate::reexec::{self, Entered};
use crate::wait;
use crate::world::{Launched, World};

/// Longest that a scenario of the quick set may take, on a machine that is busy besides.
const QUICK_BOUND: Duration = Duration::from_secs(180);

/// Longest that a slow scenario may take: the longest waits for ten minutes.
const SLOW_BOUND: Duration = Duration::from_secs(800);

/// Set to 1, the slow scenarios run too.
const SLOW_VARIABLE: &str = "CULVERT_SLOW";

/// One behaviour, shown on a lab of its own.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    name: &'static str,
    run: fn(&Scene) -> Result<()>,
    slow: bool,
    devices: &'static [Device],
    expected: &'static [&'static str],
    programs: &'static [&'static str],
}

impl Scenario {
    /// A scenario. Its name says the fact that it shows.
    pub const fn new(name: &'static str, run: fn(&Scene) -> Result<()>) -> Scenario {
        Scenario { name, run, slow: false, devices: &[Device::Best], expected: &[], programs: &[] }
    }

    /// Waits for minutes: not part of the quick set.
    #[must_use]
    pub const fn slow(mut self) -> Scenario {
        self.slow = true;
        self
    }

    /// It has to hold whatever the TUN devices of all wgds are: it runs once with the kernel's offloads and once without.
    #[must_use]
    pub const fn on_both_devices(mut self) -> Scenario {
        self.devices = &[Device::Best, Device::Plain];
        self
    }

    /// Parts of log lines at WARN or above that belong to it.
    #[must_use]
    pub const fn expecting(mut self, lines: &'static [&'static str]) -> Scenario {
        self.expected = lines;
        self
    }

    /// The programs that must have been built.
    #[must_use]
    pub const fn needs(mut self, programs: &'static [&'static str]) -> Scenario {
        self.programs = programs;
        self
    }
}

/// What wgd is told of its TUN device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Device {
    /// Nothing: it takes the best that there is.
    Best,
    /// To do without offloads.
    Plain,
}

/// A scenario, on one kind of device.
#[derive(Clone, Debug)]
struct Turn<'a> {
    /// The scenario's, with the device unless it is the usual one.
    name: String,
    scenario: &'a Scenario,
}

impl<'a> Turn<'a> {
    fn all(scenarios: &'a [Scenario]) -> impl Iterator<Item = Turn<'a>> {
        scenarios.iter().flat_map(|scenario| {
            scenario.devices.iter().map(move |device| Turn {
                name: match device {
                    Device::Best => scenario.name.to_owned(),
                    Device::Plain => format!("{}{ON_PLAIN}", scenario.name),
                },
                scenario,
            })
        })
    }
}

/// Ends the name of a scenario that runs without offloads.
const ON_PLAIN: &str = "@plain";

/// What a scenario works with.
#[derive(Debug)]
pub struct Scene {
    /// The world.
    pub world: World,
    /// The lab in it.
    pub lab: Lab,
}

/// `main` of a file of scenarios.
pub fn main(scenarios: &[Scenario]) -> ExitCode {
    match reexec::enter() {
        Entered::Outside => outside(scenarios).unwrap_or_else(|error| {
            complain(&format!("netns: {error:#}"));
            ExitCode::FAILURE
        }),
        Entered::Inside(world) => inside(scenarios, world),
        Entered::Done(code) => code,
    }
}

/// The arguments of libtest that make sense here.
#[derive(Debug, Default)]
struct Options {
    list: bool,
    exact: bool,
    show_output: bool,
    filters: Vec<String>,
    skipped: Vec<String>,
}

impl Options {
    fn read(arguments: impl Iterator<Item = String>) -> Result<Options> {
        let mut options = Options::default();
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--list" => options.list = true,
                "--exact" => options.exact = true,
                "--nocapture" | "--no-capture" | "--show-output" => options.show_output = true,
                "--skip" => options.skipped.push(arguments.next().context("--skip needs a name")?),
                "--test-threads" | "--format" | "--color" => drop(arguments.next()),
                "--quiet" | "-q" => {}
                other if other.starts_with("--test-threads=") || other.starts_with("--color=") => {}
                other if other.starts_with('-') => return Err(anyhow!("unknown option {other}")),
                other => options.filters.push(other.to_owned()),
            }
        }
        Ok(options)
    }

    fn wants(&self, name: &str) -> bool {
        let hit = |text: &String| if self.exact { name == text } else { name.contains(text.as_str()) };
        (self.filters.is_empty() || self.filters.iter().any(hit)) && !self.skipped.iter().any(hit)
    }
}

fn outside(scenarios: &[Scenario]) -> Result<ExitCode> {
    let options = Options::read(env::args().skip(1))?;
    let wanted: Vec<Turn<'_>> = Turn::all(scenarios).filter(|turn| options.wants(&turn.name)).collect();
    if options.list {
        for turn in wanted {
            say(&format!("{}: test", turn.name));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let slow_too = env::var_os(SLOW_VARIABLE).is_some_and(|value| value == "1");
    let (now, later): (Vec<Turn<'_>>, Vec<Turn<'_>>) =
        wanted.into_iter().partition(|turn| slow_too || !turn.scenario.slow);
    say(&format!("\nrunning {} test{}", now.len(), if now.len() == 1 { "" } else { "s" }));
    for turn in &later {
        say(&format!("test {} ... not in the quick set, see `cargo xtask test slow`", turn.name));
    }
    let start = wait::now();
    let mut failures = Vec::new();
    for turn in &now {
        print(&format!("test {} ... ", turn.name));
        let began = wait::now();
        let outcome = run_in_world(turn, options.show_output);
        let seconds = wait::now().duration_since(began).as_secs_f64();
        match outcome {
            Ok(()) => say(&format!("ok ({seconds:.1} s)")),
            Err(error) => {
                say(&format!("FAILED ({seconds:.1} s)"));
                failures.push((&turn.name, error));
            }
        }
    }
    if !failures.is_empty() {
        say("\nfailures:\n");
        for (name, error) in &failures {
            say(&format!("---- {name} ----\n{error:#}\n"));
        }
    }
    say(&format!(
        "\ntest result: {}. {} passed; {} failed; 0 ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
        if failures.is_empty() { "ok" } else { "FAILED" },
        now.len() - failures.len(),
        failures.len(),
        Turn::all(scenarios).count() - now.len(),
        wait::now().duration_since(start).as_secs_f64()
    ));
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(101) })
}

/// Starts the world of one scenario and waits for its end.
fn run_in_world(turn: &Turn<'_>, show_output: bool) -> Result<()> {
    let arguments = [OsString::from(&turn.name)];
    let mut world = Launched::start(&arguments, Stdio::piped(), Stdio::piped())?;
    let said = Log::default();
    let readers = [
        world.child.stdout.take().map(|pipe| said.follow(pipe)),
        world.child.stderr.take().map(|pipe| said.follow(pipe)),
    ];
    let bound = if turn.scenario.slow { SLOW_BOUND } else { QUICK_BOUND };
    let began = wait::now();
    let mut in_time = true;
    while world.child.try_wait().context("look after the world")?.is_none() {
        if in_time && wait::now().duration_since(began) > bound {
            in_time = false;
            // Closing its life line ends the world.
            drop(world.child.stdin.take());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let status = world.wait()?;
    for reader in readers.into_iter().flatten() {
        let _ = reader.join();
    }
    let text = said.lines().join("\n");
    if show_output && !text.is_empty() {
        say(&text);
    }
    if !in_time {
        return Err(anyhow!("did not end within {} s and was killed\n{text}", bound.as_secs()));
    }
    if status.success() { Ok(()) } else { Err(anyhow!("{text}")) }
}

/// Pid 1 of a scenario's world.
fn inside(scenarios: &[Scenario], world: World) -> ExitCode {
    let name = world.arguments().first().cloned().unwrap_or_default();
    let Some(turn) = Turn::all(scenarios).find(|turn| name == *turn.name) else {
        complain("no scenario of this name");
        return ExitCode::FAILURE;
    };
    if turn.name.ends_with(ON_PLAIN) {
        host::use_plain_devices();
    }
    match play(turn.scenario, world) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn play(scenario: &Scenario, world: World) -> Result<()> {
    let programs = lab::programs()?;
    lab::require_programs(&programs, scenario.programs)?;
    let lab = Lab::build(&world, &programs).context("build the lab")?;
    let scene = Scene { world, lab };
    let outcome = catch_unwind(AssertUnwindSafe(|| (scenario.run)(&scene)))
        .unwrap_or_else(|panic| Err(anyhow!("panicked: {}", describe(&*panic))))
        .and_then(|()| scene.lab.fail_on_unexpected_lines(scenario.expected));
    if outcome.is_err() {
        complain(&scene.lab.logs());
    }
    outcome
}

fn describe(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
        .unwrap_or_else(|| "without words".to_owned())
}

/// Prints a line.
pub fn say(line: &str) {
    print(&format!("{line}\n"));
}

/// Prints without ending the line, and at once.
fn print(text: &str) {
    let mut output = std::io::stdout().lock();
    // A closed pipe (`| head`) is the reader's wish.
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}

/// Prints a line to the standard error.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
