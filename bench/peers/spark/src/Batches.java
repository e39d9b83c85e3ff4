import java.util.Arrays;
import org.apache.spark.Dependency;
import org.apache.spark.Partition;
import org.apache.spark.SparkContext;
import org.apache.spark.TaskContext;
import org.apache.spark.rdd.RDD;
import org.apache.spark.streaming.StreamingContext;
import org.apache.spark.streaming.Time;
import org.apache.spark.streaming.dstream.InputDStream;
import scala.Option;
import scala.Some;
import scala.collection.JavaConverters;
import scala.collection.immutable.Seq;
import scala.reflect.ClassTag;

/** The stream of the batches in memory: one RDD per batch time, whose partitions are the arrays of {@link Data}. */
final class Batches<T> extends InputDStream<T> {
    static final long INTERVAL_MS = 1_000;

    private final ClassTag<T> tag;

    Batches(StreamingContext context, ClassTag<T> tag) {
        super(context, tag);
        this.tag = tag;
    }

    static int index(Time time) {
        return (int) (time.milliseconds() / INTERVAL_MS) - 1;
    }

    @Override
    public void start() {}

    @Override
    public void stop() {}

    @Override
    public Option<RDD<T>> compute(Time time) {
        int batch = index(time);
        return batch < Data.batches ? new Some<>(new Batch<>(context().sparkContext(), batch, tag)) : Option.empty();
    }

    private record Part(int index) implements Partition {
        @Override
        public boolean equals(Object other) {
            return other instanceof Part part && part.index == index;
        }

        @Override
        public int hashCode() {
            return index;
        }
    }

    private static final class Batch<T> extends RDD<T> {
        private final int batch;

        @SuppressWarnings({"unchecked", "rawtypes"})
        Batch(SparkContext context, int batch, ClassTag<T> tag) {
            super(context, (scala.collection.Seq) scala.collection.immutable.Nil$.MODULE$, tag);
            this.batch = batch;
        }

        @Override
        public Partition[] getPartitions() {
            Partition[] parts = new Partition[Data.records[batch].length];
            Arrays.setAll(parts, Part::new);
            return parts;
        }

        @Override
        @SuppressWarnings("unchecked")
        public scala.collection.Iterator<T> compute(Partition part, TaskContext context) {
            T[] records = (T[]) Data.records[batch][part.index()];
            return JavaConverters.asScalaIterator(Arrays.asList(records).iterator());
        }
    }
}
