import java.util.Map;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.table.api.DataTypes;
import org.apache.flink.table.api.Schema;
import org.apache.flink.table.api.bridge.java.StreamTableEnvironment;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.data.StringData;
import org.apache.flink.table.data.TimestampData;
import org.apache.flink.table.runtime.typeutils.InternalTypeInfo;
import org.apache.flink.table.types.DataType;

/**
 * The queries of Nexmark in Flink's SQL, as the benchmark has them; bench/peers/README.md says what differs. Rows are made in
 * Flink's own format, so that none is converted; bids have their time as a number too, for answers.
 */
final class Nexmark {
    private static final String TUMBLE = "TABLE(TUMBLE(TABLE %s, DESCRIPTOR(date_time), INTERVAL '10' SECOND))";
    private static final String HOP =
            "TABLE(HOP(TABLE bid, DESCRIPTOR(date_time), INTERVAL '2' SECOND, INTERVAL '10' SECOND))";
    private static final String VALID =
            "auction A, bid B WHERE A.id = B.auction AND B.date_time BETWEEN A.date_time AND A.expires";

    /** The columns of the answer, and the query. */
    private static final Map<String, String[]> QUERIES = Map.ofEntries(
            query("q0", "a BIGINT, b BIGINT, c BIGINT, d BIGINT", "SELECT auction, bidder, price, ms FROM bid"),
            query("q1", "a BIGINT, b BIGINT, c BIGINT, d BIGINT", "SELECT auction, bidder, 908 * price, ms FROM bid"),
            query("q2", "a BIGINT, b BIGINT", "SELECT auction, price FROM bid WHERE MOD(auction, 123) = 0"),
            query("q3", "a STRING, b STRING, c STRING, d BIGINT",
                    "SELECT P.name, P.city, P.state, A.id FROM auction A JOIN person P ON A.seller = P.id "
                            + "WHERE A.category = 10 AND (P.state = 'OR' OR P.state = 'ID' OR P.state = 'CA')"),
            query("q4", "a BIGINT, b BIGINT",
                    "SELECT category, AVG(final) FROM (SELECT MAX(B.price) AS final, A.category FROM " + VALID
                            + " GROUP BY A.id, A.category) GROUP BY category"),
            query("q5", "a BIGINT, b BIGINT",
                    "SELECT C.auction, C.num FROM (SELECT auction, COUNT(*) AS num, window_start, window_end FROM " + HOP
                            + " GROUP BY auction, window_start, window_end) C JOIN (SELECT MAX(num) AS most, window_start, "
                            + "window_end FROM (SELECT auction, COUNT(*) AS num, window_start, window_end FROM " + HOP
                            + " GROUP BY auction, window_start, window_end) GROUP BY window_start, window_end) M "
                            + "ON C.window_start = M.window_start AND C.window_end = M.window_end AND C.num >= M.most"),
            query("q7", "a BIGINT, b BIGINT, c BIGINT, d BIGINT",
                    "SELECT B.auction, B.price, B.bidder, B.ms FROM (SELECT * FROM " + of(TUMBLE, "bid")
                            + ") B JOIN (SELECT MAX(price) AS most, window_start, window_end FROM " + of(TUMBLE, "bid")
                            + " GROUP BY window_start, window_end) M ON B.price = M.most AND "
                            + "B.window_start = M.window_start AND B.window_end = M.window_end"),
            query("q8", "a BIGINT, b STRING",
                    "SELECT P.id, P.name FROM (SELECT id, name, window_start, window_end FROM " + of(TUMBLE, "person")
                            + " GROUP BY id, name, window_start, window_end) P JOIN (SELECT seller, window_start, "
                            + "window_end FROM " + of(TUMBLE, "auction") + " GROUP BY seller, window_start, window_end) A "
                            + "ON P.id = A.seller AND P.window_start = A.window_start AND P.window_end = A.window_end"),
            query("q9", "a BIGINT, b BIGINT, c BIGINT",
                    "SELECT id, price, ms FROM (SELECT A.id, B.price, B.ms, ROW_NUMBER() OVER (PARTITION BY A.id "
                            + "ORDER BY B.price DESC, B.date_time ASC) AS place FROM " + VALID + ") WHERE place <= 1"),
            query("q11", "a BIGINT, b BIGINT, c BIGINT, d BIGINT",
                    "SELECT bidder, MIN(ms), MAX(ms), COUNT(*) FROM TABLE(SESSION(TABLE bid PARTITION BY bidder, "
                            + "DESCRIPTOR(date_time), INTERVAL '9.999' SECOND)) GROUP BY bidder, window_start, window_end"),
            query("q12", "a BIGINT, b BIGINT",
                    "SELECT bidder, COUNT(*) FROM " + of(TUMBLE, "bid") + " GROUP BY bidder, window_start, window_end"));

    private Nexmark() {}

    private static Map.Entry<String, String[]> query(String name, String columns, String query) {
        return Map.entry(name, new String[] {columns, query});
    }

    private static String of(String format, String table) {
        return String.format(format, table);
    }

    static void run(StreamExecutionEnvironment env, String work) throws Exception {
        String[] query = QUERIES.get(work);
        if (query == null) {
            throw new IllegalArgumentException("no work " + work);
        }
        StreamTableEnvironment tables = StreamTableEnvironment.create(env);
        // As the benchmark's own settings have it.
        tables.getConfig().set("table.exec.mini-batch.enabled", "true");
        tables.getConfig().set("table.exec.mini-batch.allow-latency", "2 s");
        tables.getConfig().set("table.exec.mini-batch.size", "50000");
        tables.getConfig().set("table.local-time-zone", "UTC");
        Schema schema = Schema.newBuilder().watermark("date_time", "date_time - INTERVAL '0.001' SECOND").build();
        for (String table : tables(work)) {
            tables.createTemporaryView(table, tables.fromDataStream(stream(env, table), schema));
        }
        tables.executeSql("CREATE TEMPORARY TABLE answer (" + query[0] + ") WITH ('connector' = 'checksum')");
        tables.executeSql("INSERT INTO answer " + query[1]).await();
    }

    /** The tables that a query reads. */
    static String[] tables(String work) {
        return switch (work) {
            case "q3", "q8" -> new String[] {"person", "auction"};
            case "q4", "q9" -> new String[] {"auction", "bid"};
            default -> new String[] {"bid"};
        };
    }

    private static DataStream<RowData> stream(StreamExecutionEnvironment env, String table) {
        DataType type = switch (table) {
            case "person" -> row(big("id"), text("name"), text("city"), text("state"), time("date_time"));
            case "auction" -> row(big("id"), text("item"), big("first_bid"), big("reserve"), time("date_time"),
                    time("expires"), big("seller"), big("category"));
            default -> row(big("auction"), big("bidder"), big("price"), text("channel"), time("date_time"), big("ms"));
        };
        Memory.Row<RowData> rows = switch (table) {
            case "person" -> Nexmark::person;
            case "auction" -> Nexmark::auction;
            default -> Nexmark::bid;
        };
        InternalTypeInfo<RowData> rowType = InternalTypeInfo.of(type.getLogicalType());
        return env.fromSource(new Memory<>(table, rows), WatermarkStrategy.noWatermarks(), table, rowType);
    }

    private static DataType row(DataTypes.Field... fields) {
        return DataTypes.ROW(fields).notNull();
    }

    private static DataTypes.Field big(String name) {
        return DataTypes.FIELD(name, DataTypes.BIGINT().notNull());
    }

    private static DataTypes.Field text(String name) {
        return DataTypes.FIELD(name, DataTypes.STRING().notNull());
    }

    private static DataTypes.Field time(String name) {
        return DataTypes.FIELD(name, DataTypes.TIMESTAMP(3).notNull());
    }

    private static TimestampData at(long ms) {
        return TimestampData.fromEpochMillis(ms);
    }

    private static RowData person(long[][] of, int row) {
        StringData name = Data.texts("names")[(int) of[1][row]];
        StringData city = Data.texts("cities")[(int) of[2][row]];
        StringData state = Data.texts("states")[(int) of[3][row]];
        return GenericRowData.of(of[0][row], name, city, state, at(of[4][row]));
    }

    private static RowData auction(long[][] of, int row) {
        StringData item = Data.texts("items")[(int) of[1][row]];
        return GenericRowData.of(of[0][row], item, of[2][row], of[3][row], at(of[4][row]), at(of[5][row]), of[6][row],
                of[7][row]);
    }

    private static RowData bid(long[][] of, int row) {
        StringData channel = Data.texts("channels")[(int) of[3][row]];
        return GenericRowData.of(of[0][row], of[1][row], of[2][row], channel, at(of[4][row]), of[4][row]);
    }
}
