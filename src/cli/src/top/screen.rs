//! The live view, in a terminal.

use super::text::{Kind, Line, headline, living, table};
use super::view::{State, View};
use super::{Sort, read};
use crate::Failure;
use crate::map::text::picture;
use clap::ValueEnum;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Text;
use ratatui::widgets::{List, ListItem, ListState, Paragraph};
use std::io::{self, IsTerminal, PipeReader, Write};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};
use std::{process, thread};

const KEYS: &str = "q quit  up/down select  left/right sort  m map";

/// Looking more often would take a CPU from those who are looked at.
const SHORTEST: Duration = Duration::from_millis(100);
/// A clock can't be set to the end of all time.
const LONGEST: Duration = Duration::from_secs(86400);

/// Shows it until the user has seen enough.
pub(crate) fn show(sort: Sort, interval: Duration) -> Result<(), Failure> {
    let interval = interval.clamp(SHORTEST, LONGEST);
    let mut screen = Screen::new(read()?, sort);
    let failed = |error: io::Error| Failure::new(format!("the terminal: {error}; try knlfix top --once"));
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let (asked, ask) = io::pipe().map_err(failed)?;
    // Never closed: the reader would take that for a signal.
    ASKED_TO_END.store(ask.into_raw_fd(), Ordering::Relaxed);
    // SAFETY: a handler that is async-signal-safe.
    unsafe { libc::signal(libc::SIGTERM, ask_to_end as *const () as libc::sighandler_t) };
    thread::Builder::new().spawn(move || end_with_terminal(&asked)).map_err(failed)?;
    let outcome = screen.run(&mut terminal, interval);
    ratatui::restore();
    outcome.map_err(failed)
}

/// Where a signal's handler writes, for [`end_with_terminal`] to read.
static ASKED_TO_END: AtomicI32 = AtomicI32::new(-1);

extern "C" fn ask_to_end(_: libc::c_int) {
    // SAFETY: write(2) is async-signal-safe, and a byte is there to be read.
    unsafe { libc::write(ASKED_TO_END.load(Ordering::Relaxed), c"".as_ptr().cast(), 1) };
}

/// Waits until the terminal is gone, or somebody asks us to end (SIGTERM), and ends us then.
///
/// Mostly SIGHUP does the first. Where it is ignored or goes to others only (under sudo), crossterm would read the end of
/// the file again and again, and never come back: <https://github.com/crossterm-rs/crossterm/issues/793>.
fn end_with_terminal(asked: &PipeReader) {
    // What is read from a pipe may end before the terminal does.
    let input = if io::stdin().is_terminal() { io::stdin().as_raw_fd() } else { -1 };
    let entry = |fd, events| libc::pollfd { fd, events, revents: 0 };
    // A negative one is passed over. Of a hang-up we hear without having asked for any event.
    let mut watched = [entry(asked.as_raw_fd(), libc::POLLIN), entry(input, 0), entry(io::stdout().as_raw_fd(), 0)];
    // SAFETY: three entries, which live as long as the call.
    while unsafe { libc::poll(watched.as_mut_ptr(), 3, -1) } < 1 {
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return;
        }
    }
    if watched[0].revents != 0 {
        ratatui::restore();
        // SAFETY: what the signal does by itself.
        unsafe {
            libc::signal(libc::SIGTERM, libc::SIG_DFL);
            libc::raise(libc::SIGTERM);
        }
    }
    // Where that can't be said either, nobody is left to hear it.
    let _ = writeln!(io::stderr(), "knlfix: the terminal: it is gone; ended");
    process::exit(crate::FAILED.into());
}

struct Screen {
    view: View,
    sort: Sort,
    has_map: bool,
    has_colours: bool,
    list: ListState,
    /// The selected process, wherever it is sorted to.
    chosen: Option<u32>,
}

impl Screen {
    fn new(view: View, sort: Sort) -> Self {
        // As no-color.org has it.
        let has_colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { view, sort, has_map: true, has_colours, list: ListState::default(), chosen: None }
    }

    fn run(&mut self, terminal: &mut ratatui::DefaultTerminal, interval: Duration) -> io::Result<()> {
        loop {
            terminal.draw(|frame| self.draw(frame))?;
            let next = Instant::now() + interval;
            while event::poll(next.saturating_duration_since(Instant::now()))? {
                match event::read()? {
                    Event::Key(key) if key.kind != KeyEventKind::Release && self.is_quit_by(key) => return Ok(()),
                    _ => {}
                }
                terminal.draw(|frame| self.draw(frame))?;
            }
            // Where /dev/shm is gone for a moment, the last view stays.
            if let Ok(view) = read() {
                self.view = view;
            }
        }
    }

    /// Does what the key asks for; whether that is to end.
    fn is_quit_by(&mut self, key: KeyEvent) -> bool {
        let columns = Sort::value_variants();
        let place = columns.iter().position(|&column| column == self.sort).unwrap_or(0);
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return true,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
            KeyCode::Up => self.choose(-1),
            KeyCode::Down => self.choose(1),
            KeyCode::PageUp => self.choose(-10),
            KeyCode::PageDown => self.choose(10),
            KeyCode::Home => self.choose(isize::MIN),
            KeyCode::End => self.choose(isize::MAX),
            KeyCode::Right => self.sort = columns[(place + 1) % columns.len()],
            KeyCode::Left => self.sort = columns[(place + columns.len() - 1) % columns.len()],
            KeyCode::Char('m') => self.has_map = !self.has_map,
            _ => {}
        }
        false
    }

    /// Selects another process, so many further down.
    fn choose(&mut self, by: isize) {
        let pids = self.lines(80).iter().filter_map(|line| pid(line.kind)).collect::<Vec<_>>();
        let here = self.chosen.and_then(|chosen| pids.iter().position(|&pid| pid == chosen));
        let there = here.map_or(0, |here| here.saturating_add_signed(by)).min(pids.len().saturating_sub(1));
        self.chosen = pids.get(there).copied();
    }

    fn lines(&self, width: usize) -> Vec<Line> {
        living(&self.view).flat_map(|(index, domain)| table(domain, index, self.sort, width)).collect()
    }

    fn draw(&mut self, frame: &mut Frame<'_>) {
        let lines = self.lines(frame.area().width.into());
        let row = lines.iter().position(|line| self.chosen.is_some() && pid(line.kind) == self.chosen);
        self.list.select(row);
        let shown = lines.get(row.unwrap_or(0)).map_or(0, |line| line.domain);
        let map = self.map(shown);
        // The processes are the point: the picture gets at most half.
        let rows = (map.lines().count() as u16).min(frame.area().height / 2);
        let [top, list, below, foot] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Min(0),
            Constraint::Length(rows),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        let left_out = match self.view.left_out.len() {
            0 => String::new(),
            count => format!("; {count} left out, see --once"),
        };
        let bold = Style::new().add_modifier(Modifier::BOLD);
        frame.render_widget(Paragraph::new(headline(&self.view) + &left_out).style(bold), top);
        let items = lines.into_iter().map(|line| ListItem::new(line.text).style(self.style(line.kind)));
        let highlighted = Style::new().add_modifier(Modifier::REVERSED);
        frame.render_stateful_widget(List::new(items).highlight_style(highlighted), list, &mut self.list);
        frame.render_widget(Paragraph::new(Text::from(map)), below);
        let sorted = self.sort.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        frame.render_widget(Paragraph::new(format!("sorted by {sorted}  {KEYS}")), foot);
    }

    fn map(&self, domain: usize) -> String {
        let mut map = String::new();
        let domain = self.view.domains.get(domain).filter(|_| self.has_map);
        if let Some(chart) = domain.and_then(|domain| domain.chart.as_ref()) {
            picture(chart, &mut map);
        }
        map
    }

    fn style(&self, kind: Kind) -> Style {
        let style = Style::new();
        let coloured = |colour| if self.has_colours { style.fg(colour) } else { style };
        match kind {
            Kind::Domain => style.add_modifier(Modifier::BOLD),
            Kind::Columns => style.add_modifier(Modifier::UNDERLINED),
            Kind::Process(_, State::Region) => coloured(Color::Green),
            Kind::Process(_, State::Dead) => coloured(Color::Red),
            Kind::Process(_, State::Active | State::Idle) => style,
        }
    }
}

const fn pid(kind: Kind) -> Option<u32> {
    match kind {
        Kind::Process(pid, _) => Some(pid),
        Kind::Domain | Kind::Columns => None,
    }
}
