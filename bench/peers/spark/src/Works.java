import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.Iterator;
import java.util.List;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.LinkedBlockingQueue;
import org.apache.spark.HashPartitioner;
import org.apache.spark.TaskContext;
import org.apache.spark.api.java.JavaPairRDD;
import org.apache.spark.api.java.Optional;
import org.apache.spark.api.java.function.Function3;
import org.apache.spark.storage.StorageLevel;
import org.apache.spark.streaming.Duration;
import org.apache.spark.streaming.State;
import org.apache.spark.streaming.StateSpec;
import org.apache.spark.streaming.StreamingContext;
import org.apache.spark.streaming.Time;
import org.apache.spark.streaming.api.java.JavaDStream;
import org.apache.spark.streaming.api.java.JavaPairDStream;
import scala.Tuple2;
import scala.reflect.ClassTag$;

/** The works as D-Streams. All results stay in this process: the program runs in local mode. */
final class Works {
    /** The indices of the batches whose result is complete, in the order of completion. */
    static final LinkedBlockingQueue<Integer> done = new LinkedBlockingQueue<>();
    static final List<Long> grep = new ArrayList<>();
    static final List<long[]> sizes = new ArrayList<>();
    static final List<List<Tuple2<String, Long>>> tops = new ArrayList<>();
    /** The words of a batch, by batch and partition. */
    static final ConcurrentHashMap<Integer, ConcurrentHashMap<Integer, List<Tuple2<String, Long>>>> words =
            new ConcurrentHashMap<>();

    static void clear() {
        done.clear();
        grep.clear();
        sizes.clear();
        tops.clear();
        words.clear();
    }

    static void define(StreamingContext context, String work, boolean tuned, int partitions) {
        if (work.equals("grep")) {
            if (tuned) {
                byte[] needle = Data.needle.getBytes(StandardCharsets.ISO_8859_1);
                bytes(context).map(text -> WordMap.search(text, needle)).foreachRDD((rdd, time) -> {
                    long sum = 0;
                    for (long count : rdd.collect()) {
                        sum += count;
                    }
                    grep.add(sum);
                    complete(time);
                });
            } else {
                String needle = Data.needle;
                lines(context).filter(line -> line.contains(needle)).foreachRDD((rdd, time) -> {
                    grep.add(rdd.count());
                    complete(time);
                });
            }
            return;
        }
        JavaPairDStream<String, Long> pairs = tuned
                ? bytes(context).mapPartitionsToPair(Works::combine)
                : lines(context).flatMap(line -> Arrays.asList(line.split(" ")).iterator()).mapToPair(w -> new Tuple2<>(w, 1L));
        switch (work) {
            case "wordcount", "small" -> counts(pairs, tuned, partitions).foreachRDD((rdd, time) -> {
                keep(rdd, Batches.index(time));
                complete(time);
            });
            case "running" -> running(counts(pairs, tuned, partitions), partitions).foreachRDD((rdd, time) -> {
                keep(rdd, Batches.index(time));
                complete(time);
            });
            case "window" -> window(pairs, tuned, partitions).foreachRDD((rdd, time) -> {
                sizes.add(rdd.values().aggregate(new long[2], Works::size, Works::sum));
                if (Batches.index(time) + 1 == Data.batches) {
                    keep(rdd, Batches.index(time));
                }
                complete(time);
            });
            case "topk" -> window(pairs, tuned, partitions).foreachRDD((rdd, time) -> {
                tops.add(rdd.takeOrdered(10, new ByCount()));
                complete(time);
            });
            default -> throw new IllegalArgumentException("unknown work " + work);
        }
    }

    private static JavaPairDStream<String, Long> counts(JavaPairDStream<String, Long> pairs, boolean tuned, int partitions) {
        if (!tuned) {
            return pairs.reduceByKey(Long::sum, partitions);
        }
        // Each word comes once per partition already: Spark need not combine before the shuffle.
        return pairs.combineByKey(count -> count, Long::sum, Long::sum, new HashPartitioner(partitions), false);
    }

    private static JavaPairDStream<String, Long> running(JavaPairDStream<String, Long> counts, int partitions) {
        Function3<String, Optional<Long>, State<Long>, Tuple2<String, Long>> add = (word, count, state) -> {
            long sum = count.orElse(0L) + (state.exists() ? state.get() : 0L);
            state.update(sum);
            return new Tuple2<>(word, sum);
        };
        return counts.mapWithState(StateSpec.function(add).numPartitions(partitions)).mapToPair(entry -> entry);
    }

    private static JavaPairDStream<String, Long> window(JavaPairDStream<String, Long> pairs, boolean tuned, int partitions) {
        Duration slide = new Duration(Batches.INTERVAL_MS);
        Duration length = new Duration(10 * Batches.INTERVAL_MS);
        JavaPairDStream<String, Long> window = pairs.reduceByKeyAndWindow(
                Long::sum, (sum, old) -> sum - old, length, slide, partitions, entry -> entry._2 > 0);
        return tuned ? window.persist(StorageLevel.MEMORY_ONLY()) : window;
    }

    private static JavaDStream<String> lines(StreamingContext context) {
        return new JavaDStream<>(new Batches<>(context, ClassTag$.MODULE$.<String>apply(String.class)), ClassTag$.MODULE$.apply(String.class));
    }

    private static JavaDStream<byte[]> bytes(StreamingContext context) {
        return new JavaDStream<>(new Batches<>(context, ClassTag$.MODULE$.<byte[]>apply(byte[].class)), ClassTag$.MODULE$.apply(byte[].class));
    }

    private static Iterator<Tuple2<String, Long>> combine(Iterator<byte[]> texts) {
        return new WordMap(texts.next());
    }

    private static long[] size(long[] size, Long count) {
        size[0] += 1;
        size[1] += count;
        return size;
    }

    private static long[] sum(long[] one, long[] other) {
        one[0] += other[0];
        one[1] += other[1];
        return one;
    }

    /** Runs the job of a batch and keeps its result, complete, by partition. */
    private static void keep(JavaPairRDD<String, Long> rdd, int batch) {
        words.put(batch, new ConcurrentHashMap<>());
        rdd.foreachPartition(entries -> {
            List<Tuple2<String, Long>> list = new ArrayList<>();
            entries.forEachRemaining(list::add);
            words.get(batch).put(TaskContext.getPartitionId(), list);
        });
    }

    private static void complete(Time time) {
        done.add(Batches.index(time));
    }

    static Data.Words wordsOf(int batch) {
        Data.Words sum = new Data.Words();
        words.get(batch).values().forEach(list -> list.forEach(entry -> sum.add(entry._1, entry._2)));
        return sum;
    }

    /** By count descending, then by word. */
    static final class ByCount implements Comparator<Tuple2<String, Long>>, java.io.Serializable {
        @Override
        public int compare(Tuple2<String, Long> one, Tuple2<String, Long> other) {
            int count = Long.compare(other._2, one._2);
            return count != 0 ? count : one._1.compareTo(other._1);
        }
    }
}
