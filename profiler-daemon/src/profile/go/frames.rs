//! Which frames of a stack are shown. Go's own profiles leave out what its readers do not ask for.

use std::collections::HashMap;

use super::{
    super::{Function, Kind, Location, Profile},
    waits,
};
use crate::reader::protocol::GoMemory;

/// The locations of addresses, by their numbers in [`GoMemory::places`].
pub(crate) struct Frames<'a> {
    memory: &'a GoMemory,
    locations: Vec<Location>,
    functions: Vec<Function>,
    /// By place; `None`: it is the end of each stack.
    of_places: Vec<Option<u32>>,
    /// By location: it has functions alone that nobody has written.
    is_generated: Vec<bool>,
    /// Of waits that were taken from outside, by stack: what is shown; `None`: nothing.
    of_waits: Option<Vec<Option<Shown>>>,
}

/// Places and locations of a stack, leaf first.
type Shown = Vec<(u32, u32)>;

impl<'a> Frames<'a> {
    pub(crate) fn new(kind: Kind, memory: &'a GoMemory, named: &Profile) -> Self {
        let functions = named.functions.clone();
        let mut locations = named.locations.clone();
        let mut is_generated = Vec::new();
        for location in &mut locations {
            let all = &location.lines;
            let written: Box<[_]> = all
                .iter()
                .filter(|line| !is_generated_function(&functions[line.function as usize]))
                .copied()
                .collect();
            is_generated.push(written.is_empty() && !all.is_empty());
            if !written.is_empty() {
                location.lines = written;
            }
        }
        // What has no location was not asked for in time.
        let known = named.stacks.first().map_or(&[][..], |stack| stack);
        let avmas = super::avmas(memory);
        let of_places = avmas.iter().enumerate().map(|(number, &avma)| {
            known.get(number).copied().unwrap_or_else(|| {
                locations.push(Location { mapping: None, avma, lines: Box::new([]) });
                is_generated.push(false);
                locations.len() as u32 - 1
            })
        });
        let of_places: Vec<u32> = of_places.collect();
        let is_end = |location: u32| {
            let lines = &locations[location as usize].lines;
            lines
                .last()
                .is_some_and(|it| &*functions[it.function as usize].name == "runtime.goexit")
        };
        let of_places = of_places.iter().map(|&it| (!is_end(it)).then_some(it)).collect();
        let of_waits = None;
        let mut frames = Self { memory, locations, functions, of_places, is_generated, of_waits };
        if memory.is_whole {
            let all = 0..memory.stacks.len() as u32;
            let mut rests = HashMap::new();
            let shown = all.map(|stack| frames.begun(kind, stack, &mut rests));
            frames.of_waits = Some(shown.collect());
        }
        frames
    }

    /// A stack that was taken from outside, as the runtime would have it. `rests`: locations without
    /// their first lines.
    fn begun(
        &mut self,
        kind: Kind,
        stack: u32,
        rests: &mut HashMap<(u32, usize), u32>,
    ) -> Option<Shown> {
        let all = self.all_places(stack);
        let locations = all.iter().map(|&(_, location)| &self.locations[location as usize]);
        let begin = waits::begin(kind, locations, &self.functions)?;
        let mut shown = all[begin.frame.min(all.len())..].to_vec();
        if begin.line > 0
            && let Some((_, first)) = shown.first_mut()
        {
            let whole = *first;
            *first = *rests.entry((whole, begin.line)).or_insert_with(|| {
                let whole = &self.locations[whole as usize];
                let lines = whole.lines[begin.line..].into();
                let rest = Location { lines, ..whole.clone() };
                self.is_generated.push(false);
                self.locations.push(rest);
                self.locations.len() as u32 - 1
            });
        }
        Some(shown)
    }

    pub(crate) fn into_parts(self) -> (Vec<Location>, Vec<Function>) {
        (self.locations, self.functions)
    }

    pub(crate) fn location(&self, number: u32) -> &Location {
        &self.locations[number as usize]
    }

    pub(crate) fn function(&self, number: u32) -> &Function {
        &self.functions[number as usize]
    }

    /// The location of a place that is shown.
    pub(crate) fn of_place(&self, place: u32) -> Option<u32> {
        *self.of_places.get(place as usize)?
    }

    /// Places and locations of a stack, leaf first, with what only the compiler has written.
    pub(crate) fn all_places(&self, stack: u32) -> Vec<(u32, u32)> {
        let stack = self.memory.stacks.get(stack as usize);
        let places = stack.map_or(&[][..], |stack| &stack.places);
        let location = |place: u32| Some((place, self.of_place(place)?));
        let mut all = Vec::with_capacity(places.len());
        all.extend(places.iter().filter_map(|&place| location(place)));
        all
    }

    /// The same without, where there is anything else.
    pub(crate) fn places(&self, stack: u32) -> Vec<(u32, u32)> {
        let mut all = self.all_places(stack);
        let is_written = |it: &(u32, u32)| !self.is_generated[it.1 as usize];
        if all.iter().any(is_written) {
            all.retain(is_written);
        }
        all
    }

    /// Of an allocation: from what is not the runtime's on.
    pub(crate) fn of_allocation(&self, stack: u32) -> Box<[u32]> {
        let all = self.places(stack);
        let first = all.iter().position(|&(_, location)| !self.is_of_runtime(location));
        locations(&self.logical(&all[first.unwrap_or(0)..]))
    }

    /// Of a wait: what is to be left out, the runtime has left out, or Go's readers show it. `None`:
    /// it is not shown.
    pub(crate) fn of_wait(&self, stack: u32) -> Option<Box<[u32]>> {
        Some(locations(&self.logical(&self.wait_places(stack)?)))
    }

    /// Places and locations of a wait's stack.
    pub(crate) fn wait_places(&self, stack: u32) -> Option<Shown> {
        match &self.of_waits {
            Some(shown) => shown.get(stack as usize)?.clone(),
            None => Some(self.all_places(stack)),
        }
    }

    /// Of a goroutine.
    pub(crate) fn of_goroutine(&self, stack: u32) -> Box<[u32]> {
        locations(&self.places(stack))
    }

    /// Places and locations of a stack in which each inlined function may have an address of its own: such is
    /// left out where the location before it has the same functions already.
    pub(crate) fn logical(&self, places: &[(u32, u32)]) -> Vec<(u32, u32)> {
        let names = |location: u32| {
            self.locations[location as usize].lines.iter().map(|line| line.function)
        };
        let mut shown: Vec<(u32, u32)> = Vec::with_capacity(places.len());
        // How many functions of the last one shown are still to come as addresses of their own.
        let mut covered = 0;
        for &(place, location) in places {
            let repeats = shown.last().is_some_and(|&(_, last)| {
                covered > 0 && {
                    let rest = names(last).count() - covered;
                    names(last).skip(rest).eq(names(location))
                }
            });
            if repeats {
                covered -= 1;
            } else {
                covered = names(location).count().saturating_sub(1);
                shown.push((place, location));
            }
        }
        shown
    }

    /// Whether what runs there is the runtime's own.
    pub(crate) fn is_of_runtime(&self, location: u32) -> bool {
        let line = self.locations[location as usize].lines.first();
        line.is_some_and(|line| is_of_runtime(&self.functions[line.function as usize].name))
    }
}

fn locations(places: &[(u32, u32)]) -> Box<[u32]> {
    places.iter().map(|&(_, location)| location).collect()
}

/// Whether the compiler has made a function, so that one type has another's methods, or so that `go`
/// and `defer` have something to call: Go's own profiles leave those out.
fn is_generated_function(function: &Function) -> bool {
    let (_, last) = function.name.rsplit_once('.').unwrap_or(("", &function.name));
    let number = last.strip_prefix("gowrap").or_else(|| last.strip_prefix("deferwrap"));
    let is_number = |it: &str| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_digit());
    function.file.ends_with("<autogenerated>") || number.is_some_and(is_number)
}

pub(crate) fn is_of_runtime(name: &str) -> bool {
    name.starts_with("runtime.") || name.starts_with("internal/runtime/")
}
