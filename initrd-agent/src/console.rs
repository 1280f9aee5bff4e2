//! One line to everybody who may be looking: the console, the kernel log and, through the report, the server.
//!
//! The kernel log matters because serial-over-LAN, netconsole and pstore see it where they do not see us.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use node_api::Stage;
use tracing::field::{Field, Visit};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::report::Reporter;

/// The kernel cuts a record at LOG_LINE_MAX (1024) less its prefix; a cut line is marked.
const KERNEL_LINE_BYTES_MAX: usize = 900;

/// The stage that runs, as its place in [`Stage::ALL`], so that lines of background tasks bear it too.
static STAGE: AtomicU8 = AtomicU8::new(2);

/// From now on lines are of this stage.
pub(crate) fn set_stage(stage: Stage) {
    STAGE.store(place(stage), Ordering::Relaxed);
}

/// The stage that runs.
pub(crate) fn stage() -> Stage {
    at_place(STAGE.load(Ordering::Relaxed))
}

fn place(stage: Stage) -> u8 {
    let place = Stage::ALL.iter().position(|other| *other == stage);
    place.and_then(|place| u8::try_from(place).ok()).unwrap_or_default()
}

fn at_place(place: u8) -> Stage {
    Stage::ALL.get(usize::from(place)).copied().unwrap_or(Stage::Start)
}

/// Makes `/dev/console` standard input, output and error, because the kernel may have started us with none.
pub(crate) fn attach() -> std::io::Result<()> {
    let console = OpenOptions::new().read(true).write(true).open("/dev/console")?;
    rustix::stdio::dup2_stdin(&console)?;
    rustix::stdio::dup2_stdout(&console)?;
    rustix::stdio::dup2_stderr(&console)?;
    Ok(())
}

/// One line on the console and in the kernel log. Nothing is left to do when that fails.
pub(crate) fn say(line: &str) {
    let line = line.replace(['\n', '\r'], " ");
    let mut stderr = std::io::stderr().lock();
    // A serial console needs the carriage return whatever state its line discipline is in.
    let _ = write!(stderr, "{line}\r\n");
    let _ = stderr.flush();
    say_to_kernel(&line);
}

fn say_to_kernel(line: &str) {
    static KERNEL_LOG: Mutex<Option<File>> = Mutex::new(None);
    let Ok(mut kernel_log) = KERNEL_LOG.lock() else { return };
    if kernel_log.is_none() {
        *kernel_log = OpenOptions::new().write(true).open("/dev/kmsg").ok();
    }
    if let Some(kernel_log) = kernel_log.as_mut() {
        // Priority 6 (information): above the console's level, so it is not shown a second time.
        let _ = kernel_log.write_all(format!("<6>{}", cut(line, KERNEL_LINE_BYTES_MAX)).as_bytes());
    }
}

/// At most `bytes_max` bytes of `line`, with a mark when something is missing.
fn cut(line: &str, bytes_max: usize) -> String {
    if line.len() <= bytes_max {
        return line.to_owned();
    }
    let end = (0..=bytes_max).rev().find(|&end| line.is_char_boundary(end)).unwrap_or_default();
    format!("{}...", line.get(..end).unwrap_or_default())
}

/// Sends every `tracing` event at `info` and above to console, kernel log and report.
pub(crate) fn install(reporter: Reporter) {
    let filter = Targets::new()
        .with_default(LevelFilter::INFO)
        .with_target("hyper", LevelFilter::WARN)
        .with_target("rustls", LevelFilter::WARN);
    let layer = Lines { reporter }.with_filter(filter);
    // Fails only when a subscriber is there already, which then does the same.
    let _ = tracing_subscriber::registry().with(layer).try_init();
    std::panic::set_hook(Box::new(|panic| {
        // No `[stage]`, so that the kernel-log reader of the next agent reports this line.
        say(&format!("esir: the agent broke in {}: {panic}", stage()));
    }));
}

struct Lines {
    reporter: Reporter,
}

impl<S: tracing::Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let level = match *event.metadata().level() {
            tracing::Level::ERROR => "error: ",
            tracing::Level::WARN => "warning: ",
            _ => "",
        };
        let line = format!("[{}] {level}{}{}", stage(), text.message, text.fields);
        say(&format!("esir: {line}"));
        self.reporter.log("agent", line);
    }
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

/// An error with everything behind it, outermost first, as one sentence.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        // Some libraries print their source themselves.
        if !text.contains(&more) {
            let _ = write!(text, ": {more}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_cut_at_a_character() {
        assert_eq!(cut("short", 10), "short");
        assert_eq!(cut("ab\u{e4}cd", 3), "ab...");
    }

    #[test]
    fn every_stage_has_its_place() {
        for stage in Stage::ALL {
            assert_eq!(at_place(place(stage)), stage);
        }
        assert_eq!(at_place(2), Stage::Start, "before any stage began");
    }
}
