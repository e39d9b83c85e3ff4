import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.io.RandomAccessFile;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/** The input in memory, as records per batch and partition, and the expected answers; see bench/input. */
final class Data {
    static final int LINE_BYTES = 100;

    static int lines;
    static int batches;
    static int warmUp;
    static String needle;
    /** By batch and partition: the lines as strings, or one array of bytes. */
    static Object[][][] records;
    static final List<Long> grep = new ArrayList<>();
    static final List<Words> words = new ArrayList<>();
    static final List<List<String>> top = new ArrayList<>();

    /** A map from word to count in three numbers. */
    static final class Words {
        long distinct;
        long total;
        long checksum;

        void add(String word, long count) {
            distinct += 1;
            total += count;
            checksum += fnv1a64(word) * count;
        }

        @Override
        public boolean equals(Object other) {
            return other instanceof Words w && w.distinct == distinct && w.total == total && w.checksum == checksum;
        }

        @Override
        public int hashCode() {
            return Long.hashCode(checksum);
        }

        @Override
        public String toString() {
            return distinct + " distinct, " + total + " in all, checksum " + checksum;
        }
    }

    static long fnv1a64(String word) {
        long hash = 0xCBF29CE484222325L;
        for (int at = 0; at < word.length(); at++) {
            hash = (hash ^ word.charAt(at)) * 0x100000001B3L;
        }
        return hash;
    }

    static void load(Path folder, int partitions, boolean strings) throws IOException {
        for (String line : Files.readAllLines(folder.resolve("expected"))) {
            String[] fields = line.split(" ");
            switch (fields[0]) {
                case "lines" -> lines = Integer.parseInt(fields[1]);
                case "batches" -> batches = Integer.parseInt(fields[1]);
                case "warm_up" -> warmUp = Integer.parseInt(fields[1]);
                case "needle" -> needle = fields[1];
                case "grep" -> grep.add(Long.parseLong(fields[1]));
                case "words" -> {
                    Words w = new Words();
                    w.distinct = Long.parseLong(fields[1]);
                    w.total = Long.parseLong(fields[2]);
                    w.checksum = Long.parseLong(fields[3]);
                    words.add(w);
                }
                case "top" -> top.add(Arrays.asList(fields).subList(1, fields.length));
                default -> throw new IOException("unknown line in expected: " + line);
            }
        }
        int batchLines = lines / batches;
        records = new Object[batches][partitions][];
        try (RandomAccessFile file = new RandomAccessFile(folder.resolve("input").toFile(), "r")) {
            for (int batch = 0; batch < batches; batch++) {
                for (int part = 0; part < partitions; part++) {
                    int count = (int) ((long) batchLines * (part + 1) / partitions - (long) batchLines * part / partitions);
                    byte[] bytes = new byte[count * LINE_BYTES];
                    file.readFully(bytes);
                    records[batch][part] = strings ? strings(bytes, count) : new Object[] {bytes};
                }
            }
        }
    }

    private static Object[] strings(byte[] bytes, int count) {
        Object[] lines = new Object[count];
        for (int line = 0; line < count; line++) {
            lines[line] = new String(bytes, line * LINE_BYTES, LINE_BYTES - 1, StandardCharsets.ISO_8859_1);
        }
        return lines;
    }
}
