//! Stacks as messages about Go programs have them: each once, and so each address in them.

use std::hash::BuildHasher as _;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable, hash_table::Entry};

use super::{GoMemory, GoStack};

/// Distinct stacks, and the distinct addresses in them.
#[derive(Default)]
pub struct GoStacks {
    stacks: Vec<GoStack>,
    /// Numbers of stacks, by their places' hash.
    stack_ids: HashTable<u32>,
    places: Vec<u64>,
    place_ids: HashMap<u64, u32>,
    hashes: DefaultHashBuilder,
    /// The stack that is being added.
    stack: Vec<u32>,
}

impl GoStacks {
    /// Takes those of a message, whose numbers they keep; [`Self::give`] gives them back.
    pub fn take(memory: &mut GoMemory) -> Self {
        let places = std::mem::take(&mut memory.places);
        let place_ids = places.iter().zip(0..).map(|(&avma, number)| (avma, number)).collect();
        let mut all = Self { places, place_ids, ..Self::default() };
        for (stack, number) in std::mem::take(&mut memory.stacks).into_iter().zip(0..) {
            all.stacks.push(stack);
            let Self { stacks, stack_ids, hashes, .. } = &mut all;
            let hash = |&id: &u32| hashes.hash_one(&stacks[id as usize].places);
            stack_ids.insert_unique(hash(&number), number, hash);
        }
        all
    }

    /// The number of an avma.
    pub fn place(&mut self, avma: u64) -> u32 {
        *self.place_ids.entry(avma).or_insert_with(|| {
            self.places.push(avma);
            self.places.len() as u32 - 1
        })
    }

    /// The number of a stack: avmas, leaf first.
    pub fn add(&mut self, frames: impl Iterator<Item = u64>) -> u32 {
        let mut stack = std::mem::take(&mut self.stack);
        stack.clear();
        stack.extend(frames.map(|avma| self.place(avma)));
        let Self { stacks, stack_ids, hashes, .. } = self;
        let is_it = |&id: &u32| stacks[id as usize].places == stack;
        let hash = |&id: &u32| hashes.hash_one(&stacks[id as usize].places);
        let id = match stack_ids.entry(hashes.hash_one(&stack), is_it, hash) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(vacant) => {
                let next = stacks.len() as u32;
                vacant.insert(next);
                stacks.push(GoStack { places: stack.clone() });
                next
            }
        };
        self.stack = stack;
        id
    }

    /// Makes them those of a message.
    pub fn give(self, memory: &mut GoMemory) {
        memory.places = self.places;
        memory.stacks = self.stacks;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_there_once() {
        let mut stacks = GoStacks::default();
        assert_eq!(stacks.add([7, 8].into_iter()), 0);
        assert_eq!(stacks.add([8, 7].into_iter()), 1);
        assert_eq!(stacks.add([7, 8].into_iter()), 0);
        let mut memory = GoMemory::default();
        stacks.give(&mut memory);
        assert_eq!(memory.places, [7, 8]);
        let mut stacks = GoStacks::take(&mut memory);
        assert_eq!((stacks.add([8, 7].into_iter()), stacks.place(9)), (1, 2));
        assert_eq!(stacks.add(std::iter::empty()), 2);
        stacks.give(&mut memory);
        assert_eq!((memory.places, memory.stacks.len()), (vec![7, 8, 9], 3));
    }
}
