import java.io.Serializable;
import org.apache.flink.api.connector.sink2.Sink;
import org.apache.flink.api.connector.sink2.SinkWriter;
import org.apache.flink.api.connector.sink2.WriterInitContext;

/** A sink that counts rows and adds up their hashes. */
final class Sum<T> implements Sink<T> {
    /** The hash of a row. */
    interface Hash<T> extends Serializable {
        long of(T row);
    }

    /** 1, or -1 for a row that is taken back. */
    interface Sign<T> extends Serializable {
        int of(T row);
    }

    private final Hash<T> hash;
    private final Sign<T> sign;

    Sum(Hash<T> hash, Sign<T> sign) {
        this.hash = hash;
        this.sign = sign;
    }

    @Override
    public SinkWriter<T> createWriter(WriterInitContext context) {
        return new SinkWriter<>() {
            private long rows;
            private long checksum;

            @Override
            public void write(T row, Context at) {
                int times = sign.of(row);
                rows += times;
                checksum += times * hash.of(row);
            }

            @Override
            public void flush(boolean endOfInput) {
                Answer.add(rows, checksum);
                rows = 0;
                checksum = 0;
                if (endOfInput) {
                    Clock.end();
                }
            }

            @Override
            public void close() {}
        };
    }
}
