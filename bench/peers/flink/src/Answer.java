import java.util.concurrent.atomic.AtomicLong;

/** The rows of all sinks, and the sum of their hashes. Rows that a result takes back are subtracted. */
final class Answer {
    static final AtomicLong ROWS = new AtomicLong();
    static final AtomicLong CHECKSUM = new AtomicLong();

    private Answer() {}

    static void reset() {
        ROWS.set(0);
        CHECKSUM.set(0);
    }

    static void add(long rows, long checksum) {
        ROWS.addAndGet(rows);
        CHECKSUM.addAndGet(checksum);
    }

    /** How a number is added to the hash of its row; see bench/input, nexmark.rs. */
    static long mix(long hash, long value) {
        long mixed = (hash ^ value) * 0x9E3779B97F4A7C15L;
        return mixed ^ (mixed >>> 32);
    }

    static long fnv1a64(byte[] text) {
        long hash = 0xCBF29CE484222325L;
        for (byte one : text) {
            hash = (hash ^ (one & 0xFF)) * 0x100000001B3L;
        }
        return hash;
    }
}
