//! Nodes and their progress as lines on a terminal, or as one line per change where there is none.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use qemu_tests::admin::node::NodeView;
use qemu_tests::report::megabytes;

/// Cells of a progress bar.
const BAR_CELLS: u64 = 20;
/// Without a terminal, how often a line is repeated while only bytes change.
const LINE_EVERY: Duration = Duration::from_secs(15);

/// A table that is drawn again in place.
pub(crate) struct Table {
    begun: Instant,
    terminal: bool,
    lines: usize,
    said: BTreeMap<String, (String, Instant)>,
}

impl Table {
    pub(crate) fn new() -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self { begun: Instant::now(), terminal, lines: 0, said: BTreeMap::new() }
    }

    /// Shows how the nodes are now.
    pub(crate) fn show(&mut self, views: &[NodeView]) {
        if self.terminal {
            self.draw(views);
        } else {
            views.iter().for_each(|view| self.say(view));
        }
    }

    fn draw(&mut self, views: &[NodeView]) {
        let mut text = String::new();
        if self.lines > 0 {
            text.push_str(&format!("\x1b[{}A", self.lines));
        }
        for view in views {
            text.push_str(&format!("\x1b[2K{}\n", line(view)));
        }
        text.push_str(&format!("\x1b[2K{:7.1} s\n", self.begun.elapsed().as_secs_f64()));
        self.lines = views.len() + 1;
        let mut screen = std::io::stdout();
        let _ = screen.write_all(text.as_bytes()).and_then(|()| screen.flush());
    }

    fn say(&mut self, view: &NodeView) {
        let word = format!("{} {}", view.state, view.stage_word());
        let due = match self.said.get(&view.name) {
            Some((before, at)) => *before != word || (view.is_moving() && at.elapsed() >= LINE_EVERY),
            None => true,
        };
        if due {
            println!("{:7.1} s  {}", self.begun.elapsed().as_secs_f64(), line(view).trim_end());
            self.said.insert(view.name.clone(), (word, Instant::now()));
        }
    }
}

/// `node-770001  deploying  fetch  [######..............]  31 %  47.1 MB server  12.0 MB nodes`
fn line(view: &NodeView) -> String {
    let mut text = format!("{:<14} {:<10} {:<12}", view.name, view.state, view.stage_word());
    if let Some(failure) = &view.failure {
        return format!("{text} {failure}");
    }
    if let Some(progress) = view.progress.filter(|progress| progress.total_bytes > 0) {
        let filled = progress.done_bytes.saturating_mul(BAR_CELLS) / progress.total_bytes;
        let cells: String = (0..BAR_CELLS).map(|cell| if cell < filled { '#' } else { '.' }).collect();
        text.push_str(&format!(" [{cells}] {:3.0} %", view.done_share() * 100.0));
    }
    let traffic = view.traffic;
    if traffic.from_server_bytes + traffic.from_nodes_bytes > 0 {
        let (server, nodes) = (megabytes(traffic.from_server_bytes), megabytes(traffic.from_nodes_bytes));
        text.push_str(&format!("  {server:.1} MB from server, {nodes:.1} MB from nodes"));
    }
    text
}
