//! Who a sample belongs to: processes, the programs they run, and their mappings.

mod filter;
mod mapping;
mod table;

pub use filter::{Filter, Glob};
pub use mapping::{Mapping, MappingId, Mappings};
pub use table::{Change, ImageRef, Life, LifeId, Table};
