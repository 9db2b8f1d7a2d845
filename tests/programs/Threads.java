// Threads COUNT: so many threads that wait, and says when they are there.
import java.util.concurrent.CountDownLatch;

class Threads {
    static void waits(CountDownLatch there, Object lock) {
        there.countDown();
        synchronized (lock) {
            try {
                lock.wait();
            } catch (InterruptedException interrupted) {
            }
        }
    }

    public static void main(String[] args) throws InterruptedException {
        int count = Integer.parseInt(args[0]);
        CountDownLatch there = new CountDownLatch(count);
        for (int n = 0; n < count; n++) {
            Object lock = new Object();
            new Thread(() -> waits(there, lock), "waits-" + n).start();
        }
        there.await();
        System.out.println("there");
        Thread.sleep(600_000);
    }
}
