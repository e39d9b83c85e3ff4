import java.util.List;
import java.util.Set;
import org.apache.flink.configuration.ConfigOption;
import org.apache.flink.table.connector.ChangelogMode;
import org.apache.flink.table.connector.sink.DynamicTableSink;
import org.apache.flink.table.connector.sink.SinkV2Provider;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.factories.DynamicTableSinkFactory;
import org.apache.flink.table.types.logical.LogicalType;
import org.apache.flink.types.RowKind;

/** The connector `checksum`: a table that adds up the hashes of its rows, in Flink's own format of rows. */
public final class Checksums implements DynamicTableSinkFactory {
    @Override
    public String factoryIdentifier() {
        return "checksum";
    }

    @Override
    public Set<ConfigOption<?>> requiredOptions() {
        return Set.of();
    }

    @Override
    public Set<ConfigOption<?>> optionalOptions() {
        return Set.of();
    }

    @Override
    public DynamicTableSink createDynamicTableSink(Context context) {
        List<LogicalType> types =
                context.getCatalogTable().getResolvedSchema().toPhysicalRowDataType().getLogicalType().getChildren();
        return new Table(types);
    }

    private record Table(List<LogicalType> types) implements DynamicTableSink {
        @Override
        public ChangelogMode getChangelogMode(ChangelogMode requested) {
            return requested;
        }

        @Override
        public SinkRuntimeProvider getSinkRuntimeProvider(Context context) {
            int columns = types.size();
            boolean[] texts = new boolean[columns];
            for (int at = 0; at < columns; at++) {
                texts[at] = switch (types.get(at).getTypeRoot()) {
                    case BIGINT -> false;
                    case VARCHAR -> true;
                    default -> throw new IllegalArgumentException("no column may be " + types.get(at));
                };
            }
            Sum.Hash<RowData> hash = row -> {
                long all = 0;
                for (int at = 0; at < texts.length; at++) {
                    all = Answer.mix(all, texts[at] ? Answer.fnv1a64(row.getString(at).toBytes()) : row.getLong(at));
                }
                return all;
            };
            Sum.Sign<RowData> sign = row -> {
                RowKind kind = row.getRowKind();
                return kind == RowKind.INSERT || kind == RowKind.UPDATE_AFTER ? 1 : -1;
            };
            return SinkV2Provider.of(new Sum<>(hash, sign));
        }

        @Override
        public DynamicTableSink copy() {
            return this;
        }

        @Override
        public String asSummaryString() {
            return "checksum";
        }
    }
}
