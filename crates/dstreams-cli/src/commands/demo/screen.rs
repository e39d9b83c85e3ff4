//! The live view of the demo: top words, rates, times and memory, drawn on the whole terminal.

use std::collections::VecDeque;
use std::io::{self, Stdout, Write};
use std::time::Duration;

use dstreams_cluster::ClusterStatus;
use dstreams_cluster::app::Console;
use indicatif::{HumanBytes, HumanCount};
use ratatui::backend::TermionBackend;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::termion::event::Key;
use ratatui::termion::input::TermRead;
use ratatui::termion::raw::{IntoRawMode, RawTerminal};
use ratatui::termion::{cursor, get_tty, screen};
use ratatui::text::Line;
use ratatui::widgets::{Block, Cell, Paragraph, Row, Sparkline, Table};
use ratatui::{Frame, Terminal};
use tokio::sync::mpsc;

use crate::commands::table::{millis, of_worker, per_second, printable, resident};
use crate::error::Error;
use crate::output::Quiet;
use crate::program::BatchResults;

/// The most batches in the curves: more than a terminal has columns.
const HISTORY: usize = 500;
/// Columns of the longest bar.
const BAR_COLUMNS: usize = 40;

/// The current status of the program and its workers.
pub struct CurrentStatus {
    /// Lines in committed batches; `None` if masters are separate processes.
    pub counted: Option<u64>,
    /// Bytes of memory of blocks.
    pub block_memory: u64,
    /// The master that leads, if masters are separate processes.
    pub leader: Option<String>,
    /// `None` if it runs in this process alone.
    pub cluster: Option<ClusterStatus>,
    /// Number of acknowledged lines.
    pub acknowledged: u64,
}

/// The terminal, taken over until this is dropped.
pub struct Screen {
    terminal: Terminal<TermionBackend<Borrowed>>,
    quit: mpsc::Receiver<()>,
    shown: ScreenContent,
    /// Dropped after the terminal, so that it can print the warnings that it has held back.
    warnings: Quiet,
}

/// The terminal in raw mode and on its alternate screen until it is dropped, also on errors and
/// panics. A picture is written as a whole, by a thread that may block on the terminal.
struct Borrowed {
    /// Restores the terminal on drop.
    _raw: RawTerminal<Stdout>,
    picture: Vec<u8>,
}

impl Borrowed {
    fn new() -> io::Result<Self> {
        let mut borrowed = Borrowed {
            _raw: io::stdout().into_raw_mode()?,
            picture: Vec::new(),
        };
        write!(borrowed, "{}{}", screen::ToAlternateScreen, cursor::Hide)?;
        borrowed.flush()?;
        Ok(borrowed)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.picture.clear();
        let _ = write!(self, "{}{}", cursor::Show, screen::ToMainScreen);
        let _ = self.flush();
    }
}

impl Write for Borrowed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.picture.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Console::stdout().offer(std::mem::take(&mut self.picture));
        Ok(())
    }
}

/// The contents of the screen.
struct ScreenContent {
    interval: Duration,
    window: Duration,
    wanted: Option<u64>,
    /// How to feed it too.
    how: Option<String>,
    batches: u64,
    last: Option<BatchResults>,
    /// Records a second and processing time in microseconds, newest first.
    rates: VecDeque<u64>,
    times: VecDeque<u64>,
}

impl Screen {
    /// Takes over the terminal; it is restored on drop.
    pub fn open(
        interval: Duration,
        window: Duration,
        wanted: Option<u64>,
        how: Option<String>,
    ) -> Result<Self, Error> {
        let open = || {
            let mut terminal = Terminal::new(TermionBackend::new(Borrowed::new()?))?;
            terminal.clear()?;
            Ok(terminal)
        };
        let terminal = open().map_err(Error::Terminal)?;
        let (pressed, quit) = mpsc::channel(1);
        std::thread::spawn(move || read_keys(&pressed));
        let shown = ScreenContent {
            interval,
            window,
            wanted,
            how,
            batches: 0,
            last: None,
            rates: VecDeque::new(),
            times: VecDeque::new(),
        };
        Ok(Screen {
            terminal,
            quit,
            shown,
            warnings: Quiet::begin(),
        })
    }

    /// Adds a batch.
    pub fn batch(&mut self, found: BatchResults) {
        let shown = &mut self.shown;
        shown.batches += 1;
        shown
            .rates
            .push_front(per_second(found.records, shown.interval));
        shown.times.push_front(found.processing.as_micros() as u64);
        shown.rates.truncate(HISTORY);
        shown.times.truncate(HISTORY);
        shown.last = Some(found);
    }

    /// Draws everything, unless the terminal is still busy with the last picture.
    pub fn draw(&mut self, now: &CurrentStatus) -> Result<(), Error> {
        if Console::stdout().waiting() > 0 {
            return Ok(());
        }
        let shown = &self.shown;
        let foot = match self.warnings.last() {
            Some(warning) => warning,
            None => match &shown.how {
                Some(how) => format!("q ends it    feed it too: {how}"),
                None => "q ends it".to_owned(),
            },
        };
        let drawn = self.terminal.draw(|frame| shown.draw(frame, now, &foot));
        drawn.map(drop).map_err(Error::Terminal)
    }

    /// Waits until q or Ctrl-C is pressed.
    pub async fn quit(&mut self) {
        if self.quit.recv().await.is_none() {
            // Keys cannot be read; signals still can.
            std::future::pending().await
        }
    }
}

/// Runs until the end of the process, since reading a key cannot be cancelled.
fn read_keys(pressed: &mpsc::Sender<()>) {
    let Ok(terminal) = get_tty() else { return };
    for key in terminal.keys().map_while(io::Result::ok) {
        let quit = matches!(key, Key::Char('q') | Key::Ctrl('c'));
        if quit && pressed.blocking_send(()).is_err() {
            return;
        }
    }
}

impl ScreenContent {
    fn draw(&self, frame: &mut Frame, now: &CurrentStatus, foot_text: &str) {
        let workers = now
            .cluster
            .as_ref()
            .map_or(0, |cluster| cluster.workers.len());
        let of_workers = match workers {
            0 => 0,
            workers => workers as u16 + 2,
        };
        let rows = [
            Constraint::Length(1),
            Constraint::Length(13),
            Constraint::Length(of_workers),
            Constraint::Min(0),
            Constraint::Length(1),
        ];
        let [head, middle, workers, curves, foot] = Layout::vertical(rows).areas(frame.area());
        let columns = [Constraint::Fill(1), Constraint::Length(38)];
        let [words, numbers] = Layout::horizontal(columns).areas(middle);
        let [rates, times] = Layout::vertical([Constraint::Fill(1); 2]).areas(curves);

        frame.render_widget(self.head().bold().reversed(), head);
        self.draw_words(frame, words);
        self.draw_numbers(frame, numbers, now);
        if let Some(cluster) = &now.cluster {
            draw_workers(frame, workers, cluster, now.leader.as_deref());
        }
        let most = HumanCount(self.rates.iter().copied().max().unwrap_or(0));
        curve(
            frame,
            rates,
            format!(" records/s, up to {most} "),
            &self.rates,
            Color::Green,
        );
        let most = millis(Duration::from_micros(
            self.times.iter().copied().max().unwrap_or(0),
        ));
        let title = format!(" processing time, up to {most} ");
        curve(frame, times, title, &self.times, Color::Yellow);
        frame.render_widget(Line::from(format!(" {foot_text}")).dim(), foot);
    }

    fn head(&self) -> Line<'_> {
        let wanted = self
            .wanted
            .map_or(String::new(), |wanted| format!(" of {wanted}"));
        let (interval, window) = (self.interval, self.window);
        Line::from(format!(
            " dstreams demo   batch {}{wanted}   one every {interval:?}   window {window:?} ",
            self.batches
        ))
    }

    fn draw_words(&self, frame: &mut Frame, area: Rect) {
        let top = self.last.iter().flat_map(|found| &found.top);
        let most = top
            .clone()
            .map(|(_, count)| *count)
            .max()
            .unwrap_or(1)
            .max(1) as usize;
        let rows = top.map(|(word, count)| {
            let length = (*count as usize * BAR_COLUMNS).div_ceil(most);
            Row::new([
                Cell::from(printable(word)).bold(),
                Cell::from(
                    Line::from(HumanCount(count.unsigned_abs()).to_string()).right_aligned(),
                ),
                Cell::from("█".repeat(length)).style(Style::new().fg(Color::Cyan)),
            ])
        });
        let widths = [
            Constraint::Length(12),
            Constraint::Length(9),
            Constraint::Fill(1),
        ];
        let title = format!(" top words of the last {:?} ", self.window);
        let table = Table::new(rows, widths).block(Block::bordered().title(title));
        frame.render_widget(table, area);
    }

    fn draw_numbers(&self, frame: &mut Frame, area: Rect, now: &CurrentStatus) {
        let of_last = |value: &dyn Fn(&BatchResults) -> String| {
            self.last.as_ref().map_or("-".to_owned(), value)
        };
        let count = |n: u64| HumanCount(n).to_string();
        let blocks = HumanBytes(now.block_memory);
        let numbers = [
            (
                "records/s",
                of_last(&|last| count(per_second(last.records, self.interval))),
            ),
            ("processing time", of_last(&|last| millis(last.processing))),
            (
                "scheduling delay",
                of_last(&|last| millis(last.scheduling_delay)),
            ),
            ("", String::new()),
            (
                "words in the window",
                of_last(&|last| count(last.window_words.unsigned_abs())),
            ),
            ("lines acknowledged", count(now.acknowledged)),
            ("lines counted", now.counted.map_or("-".to_owned(), count)),
            ("", String::new()),
            ("memory of the process", resident()),
            ("memory of blocks", blocks.to_string()),
        ];
        let lines = numbers.iter().map(|(name, value)| {
            Line::from(vec![
                format!(" {name:<21}").dim(),
                format!("{value:>13}").bold(),
            ])
        });
        let block = Block::bordered().title(" engine ");
        frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()).block(block), area);
    }
}

/// A line for each worker: its blocks, its partitions and its memory; and what was lost, rebuilt and copied.
fn draw_workers(frame: &mut Frame, area: Rect, cluster: &ClusterStatus, leader: Option<&str>) {
    let rows = cluster.workers.iter().map(|worker| {
        let [name, blocks, partitions, memory] = of_worker(worker);
        let partitions = format!("partitions {partitions}");
        Row::new([
            Cell::from(name).bold(),
            Cell::from(blocks),
            Cell::from(partitions),
            Cell::from(Line::from(memory).right_aligned()),
        ])
    });
    let widths = [
        Constraint::Length(12),
        Constraint::Length(26),
        Constraint::Fill(1),
        Constraint::Length(12),
    ];
    let mut title = " workers".to_owned();
    if let Some(leader) = leader {
        title += &format!(" of master {leader}");
    }
    let (lost, rebuilds, copies) = (cluster.losses, cluster.rebuilds, cluster.task_copies);
    if lost > 0 {
        title += &format!(", {lost} lost");
    }
    if rebuilds > 0 {
        title += &format!(", state rebuilt {rebuilds} times");
    }
    if copies > 0 {
        let won = cluster.task_copies_won;
        title += &format!(", {copies} slow tasks copied, {won} copies first");
    }
    title += " ";
    let block = Block::bordered().title(title);
    frame.render_widget(Table::new(rows, widths).block(block), area);
}

/// The newest values, the last one at the right edge.
fn curve(frame: &mut Frame, area: Rect, title: String, values: &VecDeque<u64>, color: Color) {
    let columns = usize::from(area.width.saturating_sub(2));
    let newest: Vec<u64> = values.iter().take(columns).copied().collect();
    let line = Sparkline::default()
        .data(newest)
        .direction(ratatui::widgets::RenderDirection::RightToLeft)
        .style(Style::new().fg(color))
        .block(Block::bordered().title(title));
    frame.render_widget(line, area);
}
