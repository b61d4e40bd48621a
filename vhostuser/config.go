package vhostuser

// configLimit is the end of the largest config space a frontend asks about.
const configLimit = 0x1000

// getConfig serves VHOST_USER_GET_CONFIG. Guests read at any offset and in any
// width, and cloud-hypervisor ends on an error, so what lies behind the device's
// config space reads as zeros. A request that reaches beyond any config space,
// or brings no room for its answer, gets an answer of size 0.
func (s *session) getConfig(m *message) ([]byte, error) {
	space := ParseConfigSpace(m.payload)
	end := uint64(space.Offset) + uint64(space.Size)
	if end > configLimit || int(space.Size) != len(m.payload)-configHead {
		space.Size = 0
		return space.AppendTo(nil), nil
	}
	config := make([]byte, end)
	s.server.device.Config(config)
	return append(space.AppendTo(nil), config[space.Offset:]...), nil
}

// setConfig serves VHOST_USER_SET_CONFIG: the config space is the device's own,
// so nothing is written.
//
// Deviation: it is acknowledged with success all the same, because an error
// makes cloud-hypervisor panic whenever a guest writes there.
func (s *session) setConfig(m *message) error {
	if int64(ParseConfigSpace(m.payload).Size) != int64(len(m.payload)-configHead) {
		return errPayload
	}
	if log, ok := s.server.limits.config.Entry(s.log, s.server.loop.Now()); ok {
		log.Warn("write to the read-only config space is ignored")
	}
	return nil
}
