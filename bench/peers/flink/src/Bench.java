import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.HashMap;
import java.util.Locale;
import java.util.Map;
import java.util.stream.Stream;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.runtime.util.EnvironmentInformation;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;

/**
 * A query of Nexmark, or the interval join, on Flink in one process: {@code Bench --work W --input DIR [--threads N]}.
 *
 * <p>The whole work runs once before it is measured, for the JIT. The clock runs from the start of the sources to the end
 * of the sinks; the deployment of the job is not in it. State is on the heap, without checkpoints.
 */
public final class Bench {
    private Bench() {}

    public static void main(String[] words) {
        int status = 0;
        try {
            measure(words);
        } catch (Throwable why) {
            why.printStackTrace();
            status = 1;
        }
        System.out.flush();
        System.err.flush();
        clean();
        // Flink's threads need not end by themselves.
        Runtime.getRuntime().halt(status);
    }

    /** Removes the folder that run.sh made for this process. */
    private static void clean() {
        String folder = System.getProperty("bench.folder");
        try (Stream<Path> all = folder == null ? Stream.empty() : Files.walk(Path.of(folder))) {
            all.sorted(Comparator.reverseOrder()).forEach(path -> path.toFile().delete());
        } catch (IOException | UncheckedIOException gone) {
            System.err.println("not removed: " + folder);
        }
    }

    private static void measure(String[] words) throws Exception {
        Map<String, String> flags = new HashMap<>(Map.of("threads", "2"));
        for (int at = 0; at + 1 < words.length; at += 2) {
            flags.put(words[at].substring(2), words[at + 1]);
        }
        String work = flags.get("work");
        int threads = Integer.parseInt(flags.get("threads"));
        String[] tables = work.equals("within") ? new String[] {"first", "second"} : Nexmark.tables(work);
        Data.load(Path.of(flags.get("input")), tables);
        long events = 0;
        for (String table : tables) {
            events += Data.table(table)[0].length;
        }
        run(work, threads);
        long rows = Answer.ROWS.get();
        long checksum = Answer.CHECKSUM.get();
        System.gc();
        run(work, threads);
        if (rows != Answer.ROWS.get() || checksum != Answer.CHECKSUM.get()) {
            throw new IllegalStateException("two runs gave " + rows + " and " + Answer.ROWS.get() + " rows, or others");
        }
        double seconds = Clock.seconds();
        System.out.println(String.format(
                Locale.ROOT,
                "{\"program\":\"flink\",\"version\":\"flink %s, java %s\",\"work\":\"%s\",\"threads\":%d,\"events\":%d,"
                        + "\"seconds\":%.6f,\"events_per_s\":%.0f,\"rows\":%d,\"checksum\":%d}",
                EnvironmentInformation.getVersion(), System.getProperty("java.version"), work, threads, events, seconds,
                events / seconds, rows, checksum));
    }

    private static void run(String work, int threads) throws Exception {
        Answer.reset();
        Clock.reset();
        Configuration settings = new Configuration();
        settings.setString("pipeline.object-reuse", "true");
        settings.setString("taskmanager.memory.managed.size", "512m");
        StreamExecutionEnvironment env = StreamExecutionEnvironment.createLocalEnvironment(threads, settings);
        if (work.equals("within")) {
            Within.run(env);
        } else {
            Nexmark.run(env, work);
        }
    }
}
