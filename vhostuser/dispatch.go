package vhostuser

import (
	"errors"
	"fmt"
)

// rule says what a message must look like before its handler sees it, and which
// kind of handler it has: answer replies with a payload of its own, act only
// ever causes an acknowledgement (VHOST_USER_PROTOCOL_F_REPLY_ACK).
type rule struct {
	size   int  // bytes of payload
	longer bool // there may be more; the handler looks itself
	fds    int  // descriptors, at most; the handler counts them
	needs  ProtocolFeatures
	answer func(*session, *message) ([]byte, error)
	act    func(*session, *message) error
}

// rules has every message that is served.
var rules = map[Request]*rule{
	MsgGetFeatures:         {answer: (*session).getFeatures},
	MsgSetFeatures:         {size: u64Size, act: (*session).setFeatures},
	MsgGetProtocolFeatures: {answer: (*session).getProtocolFeatures},
	MsgSetProtocolFeatures: {size: u64Size, act: (*session).setProtocolFeatures},
	MsgSetOwner:            {act: (*session).ignore},
	MsgResetOwner:          {act: (*session).ignore},
	MsgGetQueueNum:         {needs: ProtocolMQ, answer: (*session).getQueueNum},
	MsgSetBackendReqFd:     {fds: 1, needs: ProtocolBackendReq, act: (*session).setBackendReqFd},
	MsgResetDevice:         {needs: ProtocolResetDevice, act: (*session).resetDevice},

	MsgSetDeviceStateFd: {size: deviceStateSize, fds: 1, needs: ProtocolDeviceState, answer: (*session).setDeviceStateFd},
	MsgCheckDeviceState: {needs: ProtocolDeviceState, answer: (*session).checkDeviceState},

	MsgGetConfig: {size: configHead, longer: true, needs: ProtocolConfig, answer: (*session).getConfig},
	MsgSetConfig: {size: configHead, longer: true, needs: ProtocolConfig, act: (*session).setConfig},

	MsgSetMemTable:    {size: memTableHead, longer: true, fds: MaxFds, act: (*session).setMemTable},
	MsgGetMaxMemSlots: {needs: ProtocolConfigureMemSlots, answer: (*session).getMaxMemSlots},
	MsgAddMemReg:      {size: singleRegionSize, fds: 1, needs: ProtocolConfigureMemSlots, act: (*session).addMemReg},
	// A descriptor here says nothing, but the specification lets it come.
	MsgRemMemReg: {size: singleRegionSize, fds: 1, needs: ProtocolConfigureMemSlots, act: (*session).remMemReg},

	MsgSetLogBase: {size: logRegionSize, fds: 1, needs: ProtocolLogShmfd, answer: (*session).setLogBase},
	MsgSetLogFd:   {fds: 1, needs: ProtocolLogShmfd, act: (*session).setLogFd},

	MsgSetVringNum:    {size: vringStateSize, act: (*session).setVringNum},
	MsgSetVringAddr:   {size: vringAddrSize, act: (*session).setVringAddr},
	MsgSetVringBase:   {size: vringStateSize, act: (*session).setVringBase},
	MsgGetVringBase:   {size: vringStateSize, answer: (*session).getVringBase},
	MsgSetVringKick:   {size: u64Size, fds: 1, act: (*session).setVringKick},
	MsgSetVringCall:   {size: u64Size, fds: 1, act: (*session).setVringCall},
	MsgSetVringErr:    {size: u64Size, fds: 1, act: (*session).setVringErr},
	MsgSetVringEnable: {size: vringStateSize, act: (*session).setVringEnable},
	MsgVringKick:      {size: vringStateSize, needs: ProtocolInBandNotifications, act: (*session).vringKick},
}

// Errors of a message that was refused and changed nothing.
var (
	errUnknown     = errors.New("unknown request")
	errUnsupported = errors.New("protocol feature was not negotiated")
	errPayload     = errors.New("malformed payload")
	errFdCount     = errors.New("wrong number of descriptors")
)

// MessageError says which message was refused, and why.
type MessageError struct {
	Request Request
	Err     error
}

func (e *MessageError) Error() string { return fmt.Sprintf("%v: %v", e.Request, e.Err) }

func (e *MessageError) Unwrap() error { return e.Err }

// handle serves one message. An error ends the session.
func (s *session) handle(m *message) error {
	s.server.stats.Messages.Inc()
	r := rules[m.Request]
	reply, err := s.apply(r, m)
	switch {
	case err != nil && r != nil && r.answer != nil:
		// The frontend would take an acknowledgement for its answer.
		s.server.stats.Malformed.Inc()
		return &MessageError{m.Request, err}
	case err != nil:
		return s.refuse(m, err)
	}
	// The rings agree with the new state before the frontend hears of it: it
	// frees ring memory as soon as it does.
	s.settle()
	switch {
	case r.answer != nil:
		return s.conn.reply(m.Request, reply)
	case s.wantsAck(m):
		return s.conn.reply(m.Request, u64Payload(ackSuccess))
	}
	return nil
}

// apply checks m against its rule, which is nil for a request that has none, and
// calls the handler. It closes the descriptors that the handler did not take.
func (s *session) apply(r *rule, m *message) (reply []byte, err error) {
	defer m.close()
	switch {
	case r == nil:
		return nil, errUnknown
	case s.protocol&r.needs != r.needs:
		return nil, errUnsupported
	case len(m.payload) < r.size || len(m.payload) > r.size && !r.longer:
		return nil, errPayload
	case len(m.fds) > r.fds:
		return nil, errFdCount
	case r.answer != nil:
		return r.answer(s, m)
	}
	return nil, r.act(s, m)
}

// What an acknowledgement says. Any number but zero is a failure.
const (
	ackSuccess = 0
	ackFailure = 1
)

// wantsAck reports whether m gets an acknowledgement. It is asked after m took
// effect, for UML wants one for the VHOST_USER_SET_PROTOCOL_FEATURES that
// negotiates them.
func (s *session) wantsAck(m *message) bool {
	return m.Flags&FlagNeedReply != 0 && s.protocol&ProtocolReplyAck != 0
}

// refuse tells the frontend that m failed, or ends the session when it cannot
// be told.
func (s *session) refuse(m *message, err error) error {
	if !s.wantsAck(m) {
		s.server.stats.Malformed.Inc()
		return &MessageError{m.Request, err}
	}
	s.complain(m, err)
	// What was refused may have stopped rings on the way.
	s.settle()
	return s.conn.reply(m.Request, u64Payload(ackFailure))
}

// complain counts and logs a message whose failure the frontend is told.
func (s *session) complain(m *message, err error) {
	s.server.stats.Malformed.Inc()
	if log, ok := s.server.limits.refused.Entry(s.log, s.server.loop.Now()); ok {
		log.WithError(&MessageError{m.Request, err}).Warn("message refused")
	}
}
