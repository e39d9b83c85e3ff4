import java.time.Duration;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.streaming.api.datastream.KeyedStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.co.ProcessJoinFunction;
import org.apache.flink.util.Collector;

/** The interval join of two streams of (key, time, number). */
final class Within {
    /** Times of joined records differ by this at most. */
    private static final Duration NEAR = Duration.ofSeconds(4);
    /** Records come in any order within an interval of this. */
    private static final Duration DISORDER = Duration.ofSeconds(2);

    private Within() {}

    static void run(StreamExecutionEnvironment env) throws Exception {
        stream(env, "first")
                .intervalJoin(stream(env, "second"))
                .between(NEAR.negated(), NEAR)
                .process(new Pairs(), Types.LONG)
                .sinkTo(new Sum<>(hash -> hash, hash -> 1));
        env.execute("within");
    }

    private static KeyedStream<Tuple3<Long, Long, Long>, Long> stream(StreamExecutionEnvironment env, String name) {
        Memory<Tuple3<Long, Long, Long>> source =
                new Memory<>(name, (of, row) -> Tuple3.of(of[0][row], of[1][row], of[2][row]));
        WatermarkStrategy<Tuple3<Long, Long, Long>> times =
                WatermarkStrategy.<Tuple3<Long, Long, Long>>forBoundedOutOfOrderness(DISORDER)
                        .withTimestampAssigner((record, before) -> record.f1);
        return env.fromSource(source, times, name, Types.TUPLE(Types.LONG, Types.LONG, Types.LONG))
                .keyBy(record -> record.f0, Types.LONG);
    }

    /** The hash of each pair. */
    private static final class Pairs
            extends ProcessJoinFunction<Tuple3<Long, Long, Long>, Tuple3<Long, Long, Long>, Long> {
        @Override
        public void processElement(
                Tuple3<Long, Long, Long> first, Tuple3<Long, Long, Long> second, Context context, Collector<Long> out) {
            long hash = Answer.mix(0, first.f0);
            hash = Answer.mix(Answer.mix(hash, first.f1), first.f2);
            out.collect(Answer.mix(Answer.mix(hash, second.f1), second.f2));
        }
    }
}
