//! `cargo xtask appliance`: the images, booted under emulation, used, and tampered with.
//!
//! ```text
//!  this world 192.0.2.1 ─ bridge ─┬─ web 192.0.2.10  (qemu: image + data)
//!                                 └─ svc 192.0.2.11  (qemu: image + data)
//! ```
//!
//! Invariant: a machine is the image as it was built, the kernel, the first process, and a data partition with what an
//! administrator puts there; nothing is done to it from outside but what its console and its network offer.

mod disk;
mod machine;
mod managed;
mod pair;
mod tamper;
mod update;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;
use culvert_netns::world::{self, World};
use daemon::Clock;

use crate::image::{self, Flavour, Series};
use crate::packages::{self, Program};
use crate::results::Results;
use crate::steps::{self, shell};
use pair::Pair;

const PROGRAMS: [Program; 9] = [
    Program { name: "qemu-system-x86_64", package: "qemu-system-x86" },
    Program { name: "mkfs.ext4", package: "e2fsprogs" },
    Program { name: "debugfs", package: "e2fsprogs" },
    Program { name: "dump.erofs", package: "erofs-utils" },
    Program { name: "ip", package: "iproute2" },
    Program { name: "openssl", package: "openssl" },
    Program { name: "curl", package: "curl" },
    Program { name: "ssh", package: "openssh-client" },
    Program { name: "sha256sum", package: "coreutils" },
];

/// What is asked for.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// A part of a step's name; what has to come before it is done in any case
    filter: Option<String>,
    /// Boot the images of the last run, without building them
    #[arg(long)]
    again: bool,
}

/// One thing that is shown, on the state that the ones before have left.
struct Step {
    name: &'static str,
    /// Later steps need it.
    needed: bool,
    run: fn(&mut Pair) -> Result<()>,
}

const fn step(name: &'static str, run: fn(&mut Pair) -> Result<()>) -> Step {
    Step { name, needed: false, run }
}

const fn needed(name: &'static str, run: fn(&mut Pair) -> Result<()>) -> Step {
    Step { name, needed: true, run }
}

const STEPS: [Step; 12] = [
    step("a_flipped_bit_of_a_program_stops_the_machine", tamper::data_block),
    step("a_flipped_bit_anywhere_is_found_when_all_is_read", tamper::any_block),
    step("a_flipped_bit_of_the_hash_tree_stops_the_machine", tamper::hash_tree),
    step("a_changed_superblock_of_the_tree_is_refused", tamper::superblock),
    step("another_root_hash_is_refused", tamper::root_hash),
    step("an_administrator_reaches_a_managed_image_by_key_and_changes_nothing", managed::run),
    step("a_disk_starts_by_uefi_is_updated_and_goes_back_by_itself", update::run),
    needed("a_first_boot_makes_identities_and_shows_their_public_halves", pair::first_boot),
    needed("a_tunnel_between_two_images_carries_an_upload", pair::upload),
    step("what_listens_and_can_be_written_is_as_agreed", pair::running),
    step("every_daemon_is_locked_down_with_landlock_abi_6", pair::lockdown_of_current),
    step("the_same_hosts_run_in_production_on_linux_6_1_and_tell_what_it_lacks", pair::on_the_old_kernel),
];

/// The images that are booted: where each is put, and what it is.
pub(crate) const SEALED: &str = "test-sealed";
pub(crate) const MANAGED: &str = "test-managed";
const OLD_KERNEL: &str = "test-sealed-6.1";
pub(crate) const MANAGED_NEXT: &str = "test-managed-2";

/// An emulated timer that comes late on a busy machine is no broken one.
pub(crate) const UNDER_EMULATION: &str = "no_timer_check rcupdate.rcu_cpu_stall_suppress=1";

/// Who signs the updates of these images.
fn update_key() -> PathBuf {
    image::place("test-key")
}

/// Outside: everything that needs the network or a compiler.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    ensure!(nix::unistd::geteuid().is_root(), "images are built and booted by root");
    packages::require(&PROGRAMS)?;
    machine::firmware()?;
    if !options.again {
        let key = update_key();
        let verifier = PathBuf::from(format!("{}.vkey", key.display()));
        if !key.is_file() || !verifier.is_file() {
            let _ = std::fs::remove_file(&key);
            std::fs::create_dir_all(image::place("")).context("make target/image")?;
            image::signing::make_key(&image::signing::KeyOptions::new("test.example/culvert", &key))?;
        }
        for (name, flavour, kernel, revision) in [
            (SEALED, Flavour::Sealed, Series::Current, 1),
            (MANAGED, Flavour::Managed, Series::Current, 1),
            (MANAGED_NEXT, Flavour::Managed, Series::Current, 2),
            (OLD_KERNEL, Flavour::Sealed, Series::Old, 1),
        ] {
            // An image that no step of the name boots is not built; each takes minutes.
            if !is_wanted(name, options) {
                continue;
            }
            let into = image::place(name);
            let wanted = image::Options {
                flavour,
                kernel,
                dev: true,
                refresh: false,
                accept: false,
                reproducible: false,
                revision,
                update_key: Some(verifier.clone()),
                sign: Some(key.clone()),
                append: UNDER_EMULATION.to_owned(),
                into: Some(into.clone()),
            };
            image::build(&wanted, &into)?;
        }
    }
    let mut arguments = vec![OsString::from("appliance")];
    arguments.extend(options.filter.as_ref().map(OsString::from));
    world::run_inside(&arguments)
}

/// Whether a step that was asked for boots it.
fn is_wanted(image: &str, options: &Options) -> bool {
    let Some(text) = &options.filter else { return true };
    let mut asked = STEPS.iter().filter(|step| step.name.contains(text.as_str()));
    match image {
        MANAGED => asked.any(|step| step.name.contains("managed") || step.name.contains("uefi")),
        MANAGED_NEXT => asked.any(|step| step.name.contains("uefi")),
        OLD_KERNEL => asked.any(|step| step.name.contains("6_1")),
        _ => true,
    }
}

/// Inside the world: prints what happens in the form of the test runner.
pub(crate) fn run_inside(options: &Options, world: &World) -> Result<ExitCode> {
    let mut pair = Pair::prepare(world).context("prepare the machines")?;
    let wanted =
        |step: &Step| step.needed || options.filter.as_ref().is_none_or(|text| step.name.contains(text));
    let last =
        STEPS.iter().rposition(|step| options.filter.as_ref().is_none_or(|text| step.name.contains(text)));
    let (mut passed, mut failed) = (0, 0);
    // What a step needs comes before it; what is needed by none that is wanted is left out.
    for step in STEPS.iter().take(last.map_or(0, |at| at + 1)).filter(|step| wanted(step)) {
        let began = Clock.now();
        match (step.run)(&mut pair) {
            Ok(()) => {
                passed += 1;
                println!("test {} ... ok ({:.1} s)", step.name, began.elapsed().as_secs_f32());
            }
            Err(error) => {
                failed += 1;
                println!("{error:#}\ntest {} ... FAILED", step.name);
                if step.needed {
                    break;
                }
            }
        }
    }
    println!("\ntest result: {passed} passed; {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// As a part of `cargo xtask test slow`.
pub(crate) fn suite(results: &mut Results, filters: &[&str]) -> Result<()> {
    let matches = |step: &Step| filters.iter().any(|text| step.name.contains(text));
    if !filters.is_empty() && !STEPS.iter().any(matches) {
        return Ok(());
    }
    let mut command = steps::cargo();
    command.args(["xtask", "appliance"]).args(filters);
    let failed_before = results.failed();
    let succeeded = steps::run_and_watch(&mut command, |line| results.line(line))?;
    results.suite_ended("appliance images", succeeded, failed_before);
    Ok(())
}

/// The `culvert` that was built with the images.
fn culvert() -> PathBuf {
    steps::target_directory().join("debug/culvert")
}
