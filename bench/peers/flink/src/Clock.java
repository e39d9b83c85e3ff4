/** When the first record left a source, and when the last one had come to a sink. */
final class Clock {
    private static long begun = Long.MAX_VALUE;
    private static long ended;

    private Clock() {}

    static synchronized void reset() {
        begun = Long.MAX_VALUE;
        ended = 0;
    }

    static synchronized void begin() {
        begun = Math.min(begun, System.nanoTime());
    }

    static synchronized void end() {
        ended = Math.max(ended, System.nanoTime());
    }

    static synchronized double seconds() {
        return (ended - begun) / 1e9;
    }
}
