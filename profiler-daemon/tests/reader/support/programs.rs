//! Sources of programs to look at: each prints a line and waits.

pub(crate) const C: &str = r#"
#include <unistd.h>
volatile int sink;
static inline __attribute__((always_inline)) int inner_inlined(int x) {
    sink = x; /* line 5 */
    return sink * 3;
}
__attribute__((noinline)) int outer_function(int x) {
    return inner_inlined(x + 1) + 7; /* line 9 */
}
int main(void) {
    sink = outer_function(2);
    if (write(1, "\n", 1) < 0) return 1;
    for (;;) pause();
}
"#;

pub(crate) const CPP: &str = r#"
#include <unistd.h>
volatile int sink;
namespace geometry {
template <typename T> struct Shape {
    __attribute__((noinline)) static int area(T x) { sink = x; return sink; }
};
}
int main() {
    sink = geometry::Shape<int>::area(2);
    if (write(1, "\n", 1) < 0) return 1;
    for (;;) pause();
}
"#;

pub(crate) const RUST: &str = r#"
use std::io::Write;
mod deep {
    pub(crate) struct Tree;
    impl Tree {
        #[inline(never)]
        pub(crate) fn grow(x: u64) -> u64 {
            std::hint::black_box(x) * 3
        }
    }
}
fn main() {
    std::hint::black_box(deep::Tree::grow(std::hint::black_box(4)));
    println!();
    std::io::stdout().flush().unwrap();
    loop {
        std::thread::park();
    }
}
"#;
