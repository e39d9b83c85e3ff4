import java.io.Serializable;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.List;
import org.apache.flink.api.common.eventtime.Watermark;
import org.apache.flink.api.common.eventtime.WatermarkGenerator;
import org.apache.flink.api.common.eventtime.WatermarkOutput;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.datastream.SingleOutputStreamOperator;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.co.ProcessJoinFunction;
import org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink;
import org.apache.flink.streaming.api.functions.windowing.ProcessWindowFunction;
import org.apache.flink.streaming.api.windowing.assigners.EventTimeSessionWindows;
import org.apache.flink.streaming.api.windowing.assigners.SlidingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.assigners.WindowAssigner;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.util.Collector;
import org.apache.flink.util.OutputTag;

/**
 * Flink's windows over the batches of input.jsonl: each firing, each result when its window is dropped, each record that
 * came too late.
 *
 * <p>With a slack S the watermark after batch t is t - S - 1, which is what Flink's bounded out-of-orderness gives
 * for a greatest time of t: a tick at the end of each batch has that time. So a window that ends at e fires in
 * batch e + S, with the records of that batch, and is dropped in the batch e + S + its allowed lateness.
 */
public final class Vectors {
    /** A record, or the tick at the end of a batch, whose time is that of the batch. */
    public static final class Event implements Serializable {
        public String key = "";
        public long at;
        public long n;
        public long batch;
        public boolean tick;
    }

    private static final TypeInformation<Event> EVENT = TypeInformation.of(Event.class);
    private static final OutputTag<Event> LATE = new OutputTag<>("late", EVENT);
    /** What the job that runs emitted; it is in this process, and has one thread that emits. */
    private static final List<String> LINES = Collections.synchronizedList(new ArrayList<>());

    private static List<JsonNode> batches;

    public static void main(String[] paths) throws Exception {
        batches = new ArrayList<>();
        for (String line : Files.readAllLines(Path.of(paths[0]))) {
            batches.add(new ObjectMapper().readTree(line));
        }
        List<String> all = new ArrayList<>();
        all.add("{\"flink\":\"" + org.apache.flink.runtime.util.EnvironmentInformation.getVersion() + "\"}");
        all.addAll(intervals("slack", 200));
        all.addAll(windows("tumbling", "readings", TumblingEventTimeWindows.of(ms(200)), 100, 300));
        all.addAll(windows("not_corrected", "readings", TumblingEventTimeWindows.of(ms(200)), 200, 0));
        all.addAll(windows("hopping", "readings", SlidingEventTimeWindows.of(ms(400), ms(200)), 100, 200));
        all.addAll(windows("sessions", "visits", EventTimeSessionWindows.withGap(ms(200)), 100, 0));
        all.addAll(join());
        Files.write(Path.of(paths[1]), all);
        // Flink's threads need not end by themselves.
        System.exit(0);
    }

    private static Duration ms(long ms) {
        return Duration.ofMillis(ms);
    }

    /** A stream of the input, with the watermarks of a slack. */
    private static DataStream<Event> stream(StreamExecutionEnvironment env, String name, long slack) {
        List<Event> events = new ArrayList<>();
        for (JsonNode batch : batches) {
            for (JsonNode record : batch.get(name)) {
                Event event = new Event();
                event.key = record.get(0).asText();
                event.at = record.get(1).asLong();
                event.n = record.get(2).asLong();
                event.batch = batch.get("batch").asLong();
                events.add(event);
            }
            Event tick = new Event();
            tick.tick = true;
            tick.at = batch.get("batch").asLong();
            tick.batch = tick.at;
            events.add(tick);
        }
        WatermarkStrategy<Event> ticks = WatermarkStrategy.<Event>forGenerator(context -> new Ticks(slack))
                .withTimestampAssigner((event, before) -> event.at);
        return env.fromData(events, EVENT).assignTimestampsAndWatermarks(ticks).filter(event -> !event.tick);
    }

    /** The watermark of the bounded out-of-orderness at the end of each batch, and never between. */
    private static final class Ticks implements WatermarkGenerator<Event> {
        private final long slack;

        Ticks(long slack) {
            this.slack = slack;
        }

        @Override
        public void onEvent(Event event, long at, WatermarkOutput output) {
            if (event.tick) {
                output.emitWatermark(new Watermark(event.batch - slack - 1));
            }
        }

        @Override
        public void onPeriodicEmit(WatermarkOutput output) {}
    }

    private static StreamExecutionEnvironment environment() {
        LINES.clear();
        StreamExecutionEnvironment env = StreamExecutionEnvironment.createLocalEnvironment(1);
        env.setParallelism(1);
        return env;
    }

    private static List<String> run(StreamExecutionEnvironment env) throws Exception {
        env.execute();
        return List.copyOf(LINES);
    }

    /** The records of each interval, once. */
    private static List<String> intervals(String name, long slack) throws Exception {
        StreamExecutionEnvironment env = environment();
        SingleOutputStreamOperator<String> windows = stream(env, "readings", slack)
                .keyBy(event -> 0, Types.INT)
                .window(TumblingEventTimeWindows.of(ms(100)))
                .sideOutputLateData(LATE)
                .process(new Records(name, slack));
        late(name, windows);
        return run(env);
    }

    private static List<String> windows(
            String name, String input, WindowAssigner<Object, TimeWindow> assigner, long slack, long lateness)
            throws Exception {
        StreamExecutionEnvironment env = environment();
        SingleOutputStreamOperator<String> windows = stream(env, input, slack)
                .keyBy(event -> event.key, Types.STRING)
                .window(assigner)
                .allowedLateness(ms(lateness))
                .sideOutputLateData(LATE)
                .process(new Results(name, slack, assigner instanceof EventTimeSessionWindows));
        late(name, windows);
        return run(env);
    }

    /** What came too late, and an end for the results, which are collected where they are made. */
    private static void late(String name, SingleOutputStreamOperator<String> windows) {
        windows.sinkTo(new DiscardingSink<>());
        windows.getSideOutput(LATE)
                .map(event -> emit("\"case\":\"%s\",\"event\":\"late\",\"batch\":%d,\"key\":\"%s\",\"at\":%d,\"n\":%d",
                        name, event.batch, event.key, event.at, event.n))
                .returns(Types.STRING)
                .sinkTo(new DiscardingSink<>());
    }

    private static String emit(String format, Object... fields) {
        String line = "{" + String.format(format, fields) + "}";
        LINES.add(line);
        return line;
    }

    /** The batch in which a window fires: that of the watermark, or that of the late record. */
    private static long batch(long watermark, long slack, Iterable<Event> events) {
        long batch = watermark + slack + 1;
        for (Event event : events) {
            batch = Math.max(batch, event.batch);
        }
        return batch;
    }

    private static final class Records extends ProcessWindowFunction<Event, String, Integer, TimeWindow> {
        private final String name;
        private final long slack;

        Records(String name, long slack) {
            this.name = name;
            this.slack = slack;
        }

        @Override
        public void process(Integer all, Context context, Iterable<Event> events, Collector<String> out) {
            List<String> records = new ArrayList<>();
            events.forEach(event -> records.add(String.format("[\"%s\",%d,%d]", event.key, event.at, event.n)));
            emit("\"case\":\"%s\",\"event\":\"interval\",\"batch\":%d,\"watermark\":%d,\"end\":%d,\"records\":[%s]",
                    name, batch(context.currentWatermark(), slack, events), context.currentWatermark(),
                    context.window().getEnd(), String.join(",", records));
        }
    }

    /** Count, sum and maximum at each firing, and the last ones again when the window is dropped. */
    private static final class Results extends ProcessWindowFunction<Event, String, String, TimeWindow> {
        private static final ValueStateDescriptor<String> LAST = new ValueStateDescriptor<>("last", Types.STRING);

        private final String name;
        private final long slack;
        /** Windows that merge have no state of their own. */
        private final boolean merges;

        Results(String name, long slack, boolean merges) {
            this.name = name;
            this.slack = slack;
            this.merges = merges;
        }

        @Override
        public void process(String key, Context context, Iterable<Event> events, Collector<String> out)
                throws Exception {
            long count = 0, sum = 0, max = Long.MIN_VALUE, first = Long.MAX_VALUE, last = Long.MIN_VALUE;
            for (Event event : events) {
                count += 1;
                sum += event.n;
                max = Math.max(max, event.n);
                first = Math.min(first, event.at);
                last = Math.max(last, event.at);
            }
            String result = String.format(
                    "\"end\":%d,\"key\":\"%s\",\"count\":%d,\"sum\":%d,\"max\":%d,\"first\":%d,\"last\":%d",
                    context.window().getEnd(), key, count, sum, max, first, last);
            emit("\"case\":\"%s\",\"event\":\"fired\",\"batch\":%d,\"watermark\":%d,%s", name,
                    batch(context.currentWatermark(), slack, events), context.currentWatermark(), result);
            if (!merges) {
                context.windowState().getState(LAST).update(result);
            }
        }

        @Override
        public void clear(Context context) throws Exception {
            if (merges) {
                return;
            }
            ValueState<String> last = context.windowState().getState(LAST);
            long watermark = context.currentWatermark();
            emit("\"case\":\"%s\",\"event\":\"dropped\",\"batch\":%d,\"watermark\":%d,%s", name,
                    watermark + slack + 1, watermark, last.value());
            last.clear();
        }
    }

    /**
     * The pairs of the interval join, in an order of their own: nothing says in which order records of two streams come to
     * an operator, so when a pair is emitted is not the same in every run. No record is later than the slack.
     */
    private static List<String> join() throws Exception {
        StreamExecutionEnvironment env = environment();
        DataStream<Event> clicks = stream(env, "clicks", 200);
        stream(env, "views", 200)
                .keyBy(event -> event.key, Types.STRING)
                .intervalJoin(clicks.keyBy(event -> event.key, Types.STRING))
                .between(ms(-100), ms(200))
                .process(new Pairs())
                .sinkTo(new DiscardingSink<>());
        List<String> pairs = new ArrayList<>(run(env));
        pairs.sort(Comparator.naturalOrder());
        return pairs;
    }

    private static final class Pairs extends ProcessJoinFunction<Event, Event, String> {
        @Override
        public void processElement(Event view, Event click, Context context, Collector<String> out) {
            emit("\"case\":\"join\",\"event\":\"pair\",\"key\":\"%s\",\"pair\":[[%d,%d],[%d,%d]]", view.key, view.at,
                    view.n, click.at, click.n);
        }
    }
}
