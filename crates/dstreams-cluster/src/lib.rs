//! Discretized Streams on many machines: master and workers on Apache DataFusion Ballista.
