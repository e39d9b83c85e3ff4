import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.apache.spark.SparkConf;
import org.apache.spark.SparkContext;
import org.apache.spark.streaming.Duration;
import org.apache.spark.streaming.StreamingContext;
import org.apache.spark.util.ManualClock;

/**
 * The benchmark's works on Spark Streaming, in local mode.
 *
 * <p>A manual clock stands for the batch interval, so that batches follow each other as fast as they can. The whole work runs
 * once before the clock of the measurement starts, for the JIT. Variants: {@code plain} is written as in Spark's
 * examples, {@code tuned} combines over slices of bytes before Spark sees a record.
 */
public final class Bench {
    /** Batches of {@code small} that run once more before it, for the JIT. */
    private static final int SMALL_REHEARSAL = 1_000;

    private static Path folder;

    public static void main(String[] words) {
        try {
            measure(words);
        } catch (Throwable why) {
            why.printStackTrace();
            fail(why.toString());
        }
        end(0);
    }

    private static void measure(String[] words) throws Exception {
        Map<String, String> flags = new HashMap<>(Map.of("threads", "2", "seed", "1", "variant", "plain"));
        for (int at = 0; at + 1 < words.length; at += 2) {
            flags.put(words[at].substring(2), words[at + 1]);
        }
        folder = Path.of(flags.get("input"));
        Runtime.getRuntime().addShutdownHook(new Thread(Bench::clean));
        String work = flags.get("work");
        String variant = flags.get("variant");
        int threads = Integer.parseInt(flags.get("threads"));
        if (!variant.equals("plain") && !variant.equals("tuned")) {
            throw new IllegalArgumentException("unknown variant " + variant + ": plain or tuned");
        }
        boolean tuned = variant.equals("tuned");
        Data.load(folder, threads, !tuned);

        SparkConf conf = new SparkConf()
                .setMaster("local[" + threads + "]")
                .setAppName("bench")
                .set("spark.driver.host", "127.0.0.1")
                .set("spark.driver.bindAddress", "127.0.0.1")
                .set("spark.ui.enabled", "false")
                .set("spark.ui.showConsoleProgress", "false")
                .set("spark.default.parallelism", Integer.toString(threads))
                .set("spark.streaming.clock", "org.apache.spark.util.ManualClock");
        if (tuned) {
            conf.set("spark.serializer", "org.apache.spark.serializer.KryoSerializer")
                    .set("spark.shuffle.compress", "false")
                    .set("spark.shuffle.spill.compress", "false");
        }
        SparkContext spark = new SparkContext(conf);
        boolean small = work.equals("small");
        int rehearsal = small ? Math.min(Data.batches, SMALL_REHEARSAL) : Data.batches;
        run(spark, work, tuned, threads, rehearsal);
        Works.clear();
        System.gc();
        long[] nanos = run(spark, work, tuned, threads, Data.batches);
        if (!small) {
            verify(work);
        }
        report(work, variant, threads, flags.get("seed"), spark.version(), nanos);
    }

    /** Ends the process; nothing is left to save, and Spark's own shutdown takes seconds. */
    private static void end(int status) {
        System.out.flush();
        System.err.flush();
        clean();
        Runtime.getRuntime().halt(status);
    }

    /** Removes the folder of the input, which is also Spark's temporary folder. */
    private static void clean() {
        try (Stream<Path> all = folder == null ? Stream.empty() : Files.walk(folder)) {
            all.sorted(Comparator.reverseOrder()).forEach(path -> path.toFile().delete());
        } catch (IOException | UncheckedIOException gone) {
            System.err.println("not removed: " + folder);
        }
    }

    /** Runs the batches and returns the time of all, for small of each. */
    private static long[] run(SparkContext spark, String work, boolean tuned, int threads, int batches)
            throws Exception {
        StreamingContext context = new StreamingContext(spark, new Duration(Batches.INTERVAL_MS));
        if (work.equals("running") || work.equals("window") || work.equals("topk")) {
            context.checkpoint(folder.resolve("checkpoint").toString());
        }
        Works.define(context, work, tuned, threads);
        context.start();
        ManualClock clock = (ManualClock) context.scheduler().clock();
        long[] nanos = new long[work.equals("small") ? batches : 1];
        long start = System.nanoTime();
        if (work.equals("small")) {
            for (int batch = 0; batch < batches; batch++) {
                start = System.nanoTime();
                clock.advance(Batches.INTERVAL_MS);
                await(batch);
                nanos[batch] = System.nanoTime() - start;
                same("words", batch, Data.words.get(batch), Works.wordsOf(batch));
                Works.words.remove(batch);
            }
        } else {
            clock.advance(Batches.INTERVAL_MS * batches);
            for (int batch = 0; batch < batches; batch++) {
                await(batch);
            }
            nanos[0] = System.nanoTime() - start;
        }
        context.stop(false, false);
        return nanos;
    }

    private static void await(int batch) throws InterruptedException {
        Integer done = Works.done.poll(600, TimeUnit.SECONDS);
        if (done == null || done != batch) {
            fail("batch " + batch + " did not complete; instead: " + done);
        }
    }

    private static void verify(String work) {
        for (int batch = 0; batch < Data.batches; batch++) {
            switch (work) {
                case "grep" -> same("grep", batch, Data.grep.get(batch), Works.grep.get(batch));
                case "wordcount", "running" -> same("words", batch, Data.words.get(batch), Works.wordsOf(batch));
                case "window" -> {
                    Data.Words words = Data.words.get(batch);
                    List<Long> size = Arrays.stream(Works.sizes.get(batch)).boxed().collect(Collectors.toList());
                    same("sizes of the window", batch, List.of(words.distinct, words.total), size);
                    if (batch + 1 == Data.batches) {
                        same("the last window", batch, words, Works.wordsOf(batch));
                    }
                }
                default -> {
                    List<String> top = Works.tops.get(batch).stream()
                            .flatMap(entry -> List.of(entry._1, entry._2.toString()).stream())
                            .collect(Collectors.toList());
                    same("top words", batch, Data.top.get(batch), top);
                }
            }
        }
    }

    private static void same(String what, int batch, Object expected, Object got) {
        if (!expected.equals(got)) {
            fail("wrong answer: " + what + ": batch " + batch + ": expected " + expected + ", got " + got);
        }
    }

    private static void fail(String why) {
        System.err.println("Error: " + why);
        end(1);
    }

    private static void report(String work, String variant, int threads, String seed, String version, long[] nanos) {
        long[] measured = work.equals("small") ? Arrays.copyOfRange(nanos, Data.warmUp, nanos.length) : nanos;
        double seconds = Arrays.stream(measured).sum() / 1e9;
        long lines = work.equals("small") ? (long) measured.length * (Data.lines / Data.batches) : Data.lines;
        StringBuilder json = new StringBuilder(String.format(
                Locale.ROOT,
                "{\"program\":\"spark\",\"version\":\"spark %s, java %s\",\"work\":\"%s\",\"variant\":\"%s\",\"lines\":%d,"
                        + "\"line_bytes\":%d,\"batches\":%d,\"threads\":%d,\"seed\":%s,\"seconds\":%.6f,\"lines_per_s\":%.0f,"
                        + "\"checked\":true",
                version, System.getProperty("java.version"), work, variant, Data.lines, Data.LINE_BYTES, Data.batches,
                threads, seed, seconds, lines / seconds));
        if (work.equals("small")) {
            Arrays.sort(measured);
            json.append(String.format(Locale.ROOT, ",\"latency_ms\":{\"p50\":%.4f,\"p90\":%.4f,\"p99\":%.4f,\"max\":%.4f}",
                    at(measured, 0.5), at(measured, 0.9), at(measured, 0.99), at(measured, 1.0)));
        }
        System.out.println(json.append("}"));
    }

    /** The percentile by nearest rank, in milliseconds. */
    private static double at(long[] sorted, double share) {
        int rank = (int) Math.ceil(sorted.length * share);
        return sorted[Math.max(rank, 1) - 1] / 1e6;
    }
}
