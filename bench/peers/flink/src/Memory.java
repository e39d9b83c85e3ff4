import java.io.Serializable;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import org.apache.flink.api.connector.source.Boundedness;
import org.apache.flink.api.connector.source.ReaderOutput;
import org.apache.flink.api.connector.source.Source;
import org.apache.flink.api.connector.source.SourceReader;
import org.apache.flink.api.connector.source.SourceReaderContext;
import org.apache.flink.api.connector.source.SourceSplit;
import org.apache.flink.api.connector.source.SplitEnumerator;
import org.apache.flink.api.connector.source.SplitEnumeratorContext;
import org.apache.flink.core.io.InputStatus;
import org.apache.flink.core.io.SimpleVersionedSerializer;

/**
 * A source of the rows of a table in memory: with n readers, reader i has every n-th row from i on, so that all are at one time
 * of the events. It has no splits and no checkpoints.
 */
final class Memory<T> implements Source<T, Memory.NoSplit, Void> {
    /** Makes the record of a row. */
    interface Row<T> extends Serializable {
        T at(long[][] table, int row);
    }

    record NoSplit() implements SourceSplit {
        @Override
        public String splitId() {
            return "";
        }
    }

    /** Records that are emitted between two looks at the mailbox. */
    private static final int RUN = 64;

    private final String table;
    private final Row<T> row;

    Memory(String table, Row<T> row) {
        this.table = table;
        this.row = row;
    }

    @Override
    public Boundedness getBoundedness() {
        return Boundedness.BOUNDED;
    }

    @Override
    public SourceReader<T, NoSplit> createReader(SourceReaderContext context) {
        return new Reader(context.getIndexOfSubtask(), context.currentParallelism());
    }

    private final class Reader implements SourceReader<T, NoSplit> {
        private final long[][] columns = Data.table(table);
        private final int readers;
        private int next;

        Reader(int index, int readers) {
            this.next = index;
            this.readers = readers;
        }

        @Override
        public void start() {
            Clock.begin();
        }

        @Override
        public InputStatus pollNext(ReaderOutput<T> output) {
            int rows = columns[0].length;
            for (int at = 0; at < RUN && next < rows; at++, next += readers) {
                output.collect(row.at(columns, next));
            }
            return next < rows ? InputStatus.MORE_AVAILABLE : InputStatus.END_OF_INPUT;
        }

        @Override
        public List<NoSplit> snapshotState(long checkpoint) {
            return List.of();
        }

        @Override
        public CompletableFuture<Void> isAvailable() {
            return CompletableFuture.completedFuture(null);
        }

        @Override
        public void addSplits(List<NoSplit> splits) {}

        @Override
        public void notifyNoMoreSplits() {}

        @Override
        public void close() {}
    }

    @Override
    public SplitEnumerator<NoSplit, Void> createEnumerator(SplitEnumeratorContext<NoSplit> context) {
        return new Nothing();
    }

    @Override
    public SplitEnumerator<NoSplit, Void> restoreEnumerator(SplitEnumeratorContext<NoSplit> context, Void state) {
        return new Nothing();
    }

    private static final class Nothing implements SplitEnumerator<NoSplit, Void> {
        @Override
        public void start() {}

        @Override
        public void handleSplitRequest(int subtask, String host) {}

        @Override
        public void addSplitsBack(List<NoSplit> splits, int subtask) {}

        @Override
        public void addReader(int subtask) {}

        @Override
        public Void snapshotState(long checkpoint) {
            return null;
        }

        @Override
        public void close() {}
    }

    @Override
    public SimpleVersionedSerializer<NoSplit> getSplitSerializer() {
        return new Empty<>(new NoSplit());
    }

    @Override
    public SimpleVersionedSerializer<Void> getEnumeratorCheckpointSerializer() {
        return new Empty<>(null);
    }

    private record Empty<E>(E only) implements SimpleVersionedSerializer<E> {
        @Override
        public int getVersion() {
            return 0;
        }

        @Override
        public byte[] serialize(E value) {
            return new byte[0];
        }

        @Override
        public E deserialize(int version, byte[] bytes) {
            return only;
        }
    }
}
