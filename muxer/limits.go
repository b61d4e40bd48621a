package muxer

// SetLimits changes how many host sockets and connections there may be, at most
// what New was given, and how many bytes may wait for them. What is beyond a
// lowered limit stays until it ends.
func (m *Muxer) SetLimits(connections int, buffered int64) {
	m.cfg.MaxConnections = min(connections, m.maxConnections)
	m.cfg.MaxBuffered = buffered
	m.streams.resume()
	m.seqpackets.resume()
}
