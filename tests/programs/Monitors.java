// Monitors: one thread holds a lock for a while again and again, another waits for it each time.
// Prints for how long that waited, in nanoseconds.
class Monitors {
    static final Object lock = new Object();
    static volatile boolean over;
    static long waited;

    static void holds() throws InterruptedException {
        synchronized (lock) {
            Thread.sleep(15);
        }
    }

    static void wants() {
        long begin = System.nanoTime();
        synchronized (lock) {
            waited += System.nanoTime() - begin;
        }
    }

    public static void main(String[] args) throws InterruptedException {
        Thread holder = new Thread(() -> {
            try {
                for (int n = 0; n < 100; n++) {
                    holds();
                    Thread.sleep(5);
                }
            } catch (InterruptedException interrupted) {
            }
            over = true;
        }, "holder");
        holder.start();
        while (!over) {
            wants();
            Thread.sleep(1);
        }
        System.out.println(waited);
    }
}
