//! Stories on virtual bare metal, one at a time; each file tells one.
//!
//! Skipped, and said so, when the process is not root, QEMU is absent, or `ESIR_SKIP_VM` is set.
#![forbid(unsafe_code)]

mod captured_node;
mod cloud_image;
mod compare;
mod container_image;
mod debian_image;
mod exported_disk;
mod firmware;
mod kept_data;
mod locked_disk;
mod mirrored;
mod old_remains;
mod older_image;
mod other_systems;
mod own_system;
mod partition_image;
mod secure_boot;
mod server_killed_in_mid_fetch;
mod two_disks;
mod two_machines;
mod unapproved_node;
mod wrong_signature;

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use libtest_mimic::{Arguments, Failed, Trial};
use qemu_tests::session;

/// One story: a sentence and what happens.
struct Story {
    name: &'static str,
    tell: fn() -> Telling,
}

type Telling = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// How often a story may be tried, in the environment; once if it says nothing.
const TRIES: &str = "ESIR_STORY_TRIES";

/// In the order of what they need: the cheap ones first.
const STORIES: [Story; 8] = [
    Story {
        name: "the Debian image lists with tar and comes out as it went in",
        tell: || Box::pin(debian_image::tell()),
    },
    Story {
        name: "an unapproved node waits and never opens its disk for writing",
        tell: || Box::pin(unapproved_node::tell()),
    },
    Story {
        name: "a node whose image has a wrong signature stops before its first write",
        tell: || Box::pin(wrong_signature::tell()),
    },
    Story {
        name: "a node with two disks and a rule that matches both stops and says so",
        tell: || Box::pin(two_disks::tell()),
    },
    Story {
        name: "a machine with Secure Boot finds the signed loaders by itself and runs locked down",
        tell: || Box::pin(secure_boot::tell()),
    },
    Story {
        name: "a node has the users, the files, the network and the hook of its group",
        tell: || Box::pin(own_system::tell()),
    },
    Story {
        name: "two machines of different kinds become two running servers and stay so",
        tell: || Box::pin(two_machines::tell()),
    },
    Story {
        name: "a node goes on when the server is killed in mid-fetch and started again",
        tell: || Box::pin(server_killed_in_mid_fetch::tell()),
    },
];

/// Those that take many minutes, or images of their own: `scripts/test --all` tells them.
const SLOW_STORIES: [Story; 14] = [
    Story { name: "what a layout keeps survives a second deployment", tell: || Box::pin(kept_data::tell()) },
    Story {
        name: "an image of a cloud finds its seed, and cloud-init undoes nothing",
        tell: || Box::pin(cloud_image::tell()),
    },
    Story {
        name: "a node with an older image fetches what is new and becomes what a bare machine becomes",
        tell: || Box::pin(older_image::tell()),
    },
    Story {
        name: "a system on logical volumes is deployed twice beside what is kept",
        tell: || Box::pin(kept_data::tell_on_volumes()),
    },
    Story {
        name: "machines with mirrored disks go on when the first disk is gone",
        tell: || Box::pin(mirrored::tell()),
    },
    Story {
        name: "nothing of old arrays and volumes is found on a disk that is deployed in another shape",
        tell: || Box::pin(old_remains::tell()),
    },
    Story {
        name: "a running node on logical volumes becomes an image of one moment",
        tell: || Box::pin(captured_node::tell()),
    },
    Story {
        name: "an image of a partition becomes a root as large as its disk",
        tell: || Box::pin(partition_image::tell()),
    },
    Story {
        name: "a disk that an image was exported as starts as it is",
        tell: || Box::pin(exported_disk::tell()),
    },
    Story {
        name: "a system in LUKS containers starts when the key is typed that the server tells",
        tell: || Box::pin(locked_disk::tell()),
    },
    Story {
        name: "a container image and a layer with a kernel become a running server",
        tell: || Box::pin(container_image::tell()),
    },
    Story {
        name: "Debian 13 with Secure Boot starts from a disk with sectors of 4 KiB",
        tell: || Box::pin(other_systems::tell_secure_debian_13()),
    },
    Story {
        name: "Debian 13 starts from subvolumes of btrfs",
        tell: || Box::pin(other_systems::tell_subvolumes()),
    },
    Story {
        name: "a system without GRUB starts from xfs by systemd-boot",
        tell: || Box::pin(other_systems::tell_systemd_boot()),
    },
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Two machines of one story already share the processors.
    arguments.test_threads = Some(1);
    let skipped = why_skipped();
    if let Some(why) = &skipped {
        println!("stories on virtual machines are skipped: {why}");
    } else if !arguments.list
        && let Err(error) = session::sweep_on_signals().and_then(|()| session::sweep_when_orphaned())
    {
        println!("stories cannot be told: {error:#}");
        return ExitCode::FAILURE;
    }
    let told_of = |stories: &'static [Story], why_not: Option<String>| {
        if let Some(why) = why_not.as_ref().filter(|_| skipped.is_none()) {
            stories.iter().for_each(|story| println!("skipped: {}: {why}", story.name));
        }
        let is_left_out = why_not.is_some() || skipped.is_some();
        let trial = |story: &'static Story| Trial::test(story.name, || tell(story));
        stories.iter().map(move |story| trial(story).with_ignored_flag(is_left_out))
    };
    let trials = told_of(&STORIES, None)
        .chain(told_of(&firmware::STORIES, None))
        .chain(told_of(&firmware::REWRITING_STORIES, firmware::why_no_rewriting()))
        .chain(told_of(&SLOW_STORIES, why_no_slow_ones()));
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn why_skipped() -> Option<String> {
    if std::env::var_os("ESIR_SKIP_VM").is_some() {
        return Some("ESIR_SKIP_VM is set".into());
    }
    if !nix::unistd::Uid::effective().is_root() {
        return Some("namespaces and taps need root".into());
    }
    let qemu = std::process::Command::new("qemu-system-x86_64").arg("--version").output();
    qemu.is_err().then(|| "there is no qemu-system-x86_64; scripts/setup installs it".into())
}

/// Why [`SLOW_STORIES`] are not told now.
fn why_no_slow_ones() -> Option<String> {
    std::env::var_os("ESIR_SKIP_SLOW").map(|_| "ESIR_SKIP_SLOW is set".into())
}

/// Tells it, and once more where [`TRIES`] allows that: what one moment of an emulated machine decided is then not the
/// end of half an hour, and is said all the same.
fn tell(story: &Story) -> Result<(), Failed> {
    let tries = std::env::var(TRIES).ok().and_then(|tries| tries.parse().ok()).unwrap_or(1);
    let mut told = tell_once(story);
    for attempt in 2..=tries {
        if told.is_ok() {
            break;
        }
        told = tell_once(story);
        if told.is_ok() {
            eprintln!(
                "UNSTEADY: {}: passed only at try {attempt} of {tries}; why not before stands above",
                story.name
            );
        }
    }
    told
}

fn tell_once(story: &Story) -> Result<(), Failed> {
    eprintln!("\nstory: {}", story.name);
    let began = SystemTime::now();
    let told = runtime().and_then(|runtime| runtime.block_on((story.tell)()));
    told.map_err(|error| {
        session::keep_logs_of_failed(began);
        let logs = qemu_tests::image::cache_dir().map(|cache| cache.join("logs")).unwrap_or_default();
        let why = format!("{error:#}\nconsoles and logs of the lab are in {}", logs.display());
        // At once too: the summary of all stories comes only after the last one, if it comes.
        eprintln!("failed: {why}");
        Failed::from(why)
    })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().context("starting the runtime")
}
