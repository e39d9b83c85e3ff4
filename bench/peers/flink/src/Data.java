import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.LongBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import org.apache.flink.table.data.StringData;

/** The input in memory: tables of whole numbers by column, and lists of texts; see bench/input, columns.rs. */
final class Data {
    private static final Map<String, long[][]> TABLES = new HashMap<>();
    private static final Map<String, StringData[]> TEXTS = new HashMap<>();

    private Data() {}

    /** The columns of a table. */
    static long[][] table(String name) {
        return TABLES.get(name);
    }

    /** The texts of a list. */
    static StringData[] texts(String name) {
        return TEXTS.get(name);
    }

    static void load(Path folder, String... tables) throws IOException {
        for (String table : tables) {
            TABLES.put(table, read(folder.resolve(table)));
        }
        for (String line : Files.readAllLines(folder.resolve("texts"))) {
            String[] words = line.split("\t");
            StringData[] texts = Arrays.stream(words).skip(1).map(StringData::fromString).toArray(StringData[]::new);
            TEXTS.put(words[0], texts);
        }
    }

    private static long[][] read(Path path) throws IOException {
        try (FileChannel file = FileChannel.open(path)) {
            ByteBuffer head = ByteBuffer.allocate(16).order(ByteOrder.LITTLE_ENDIAN);
            file.read(head, 0);
            int columns = (int) head.getLong(0);
            int rows = (int) head.getLong(8);
            long[][] table = new long[columns][rows];
            for (int column = 0; column < columns; column++) {
                LongBuffer numbers = file.map(FileChannel.MapMode.READ_ONLY, 16 + 8L * column * rows, 8L * rows)
                        .order(ByteOrder.LITTLE_ENDIAN)
                        .asLongBuffer();
                numbers.get(table[column]);
            }
            return table;
        }
    }
}
