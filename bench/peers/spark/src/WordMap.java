import java.nio.charset.StandardCharsets;
import java.util.Iterator;
import java.util.NoSuchElementException;
import scala.Tuple2;

/** Counts of words that are slices of one array of bytes: open addressing, no object per word before the end. */
final class WordMap implements Iterator<Tuple2<String, Long>> {
    private final byte[] text;
    private int[] starts = new int[1 << 16];
    private int[] lengths = new int[1 << 16];
    private int[] hashes = new int[1 << 16];
    private int[] counts = new int[1 << 16];
    private int size;
    private int next = -1;

    /** Counts the words of the text. */
    WordMap(byte[] text) {
        this.text = text;
        int start = 0;
        int hash = 0;
        for (int at = 0; at < text.length; at++) {
            byte b = text[at];
            if (b > ' ') {
                hash = hash * 31 + b;
            } else {
                if (at > start) {
                    count(start, at - start, hash * 0x9E3779B1);
                }
                start = at + 1;
                hash = 0;
            }
        }
        advance();
    }

    private void count(int start, int length, int hash) {
        int mask = counts.length - 1;
        int slot = hash >>> 7 & mask;
        while (counts[slot] != 0) {
            if (hashes[slot] == hash && lengths[slot] == length && same(starts[slot], start, length)) {
                counts[slot] += 1;
                return;
            }
            slot = slot + 1 & mask;
        }
        put(slot, start, length, hash, 1);
        size += 1;
        if (size * 2 > counts.length) {
            grow();
        }
    }

    private boolean same(int one, int other, int length) {
        for (int at = 0; at < length; at++) {
            if (text[one + at] != text[other + at]) {
                return false;
            }
        }
        return true;
    }

    private void put(int slot, int start, int length, int hash, int count) {
        starts[slot] = start;
        lengths[slot] = length;
        hashes[slot] = hash;
        counts[slot] = count;
    }

    private void grow() {
        int[] oldStarts = starts;
        int[] oldLengths = lengths;
        int[] oldHashes = hashes;
        int[] oldCounts = counts;
        int slots = oldCounts.length * 2;
        starts = new int[slots];
        lengths = new int[slots];
        hashes = new int[slots];
        counts = new int[slots];
        for (int old = 0; old < oldCounts.length; old++) {
            if (oldCounts[old] != 0) {
                int slot = oldHashes[old] >>> 7 & slots - 1;
                while (counts[slot] != 0) {
                    slot = slot + 1 & slots - 1;
                }
                put(slot, oldStarts[old], oldLengths[old], oldHashes[old], oldCounts[old]);
            }
        }
    }

    private void advance() {
        do {
            next += 1;
        } while (next < counts.length && counts[next] == 0);
    }

    @Override
    public boolean hasNext() {
        return next < counts.length;
    }

    @Override
    public Tuple2<String, Long> next() {
        if (!hasNext()) {
            throw new NoSuchElementException();
        }
        String word = new String(text, starts[next], lengths[next], StandardCharsets.ISO_8859_1);
        Tuple2<String, Long> entry = new Tuple2<>(word, (long) counts[next]);
        advance();
        return entry;
    }

    /** Lines of the text that contain the needle: Horspool's search, going on after the line of each hit. */
    static long search(byte[] text, byte[] needle) {
        int last = needle.length - 1;
        int[] skip = new int[256];
        java.util.Arrays.fill(skip, needle.length);
        for (int at = 0; at < last; at++) {
            skip[needle[at] & 0xFF] = last - at;
        }
        long found = 0;
        int at = 0;
        while (at + last < text.length) {
            byte end = text[at + last];
            if (end == needle[last] && starts(text, at, needle)) {
                found += 1;
                while (at < text.length && text[at] != '\n') {
                    at += 1;
                }
                at += 1;
            } else {
                at += skip[end & 0xFF];
            }
        }
        return found;
    }

    private static boolean starts(byte[] text, int from, byte[] needle) {
        for (int at = 0; at < needle.length; at++) {
            if (text[from + at] != needle[at]) {
                return false;
            }
        }
        return true;
    }
}
