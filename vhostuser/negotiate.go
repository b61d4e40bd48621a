package vhostuser

import (
	"errors"
	"fmt"
)

var (
	errNoVersion1   = errors.New("driver did not accept VIRTIO_F_VERSION_1")
	errPacked       = errors.New("driver lays its rings out packed, which was not offered")
	errNotOffered   = errors.New("feature was not offered")
	errInBand       = errors.New("INBAND_NOTIFICATIONS needs BACKEND_REQ and REPLY_ACK")
	errNoDescriptor = errors.New("descriptor is missing")
)

// offered returns the feature bits of VHOST_USER_GET_FEATURES.
func (s *session) offered() uint64 {
	return s.server.device.Features() | ourFeatures
}

func (s *session) getFeatures(*message) ([]byte, error) {
	return u64Payload(s.offered()), nil
}

// setFeatures serves VHOST_USER_SET_FEATURES. Bits that were not offered are
// masked: QEMU passes on what the guest wrote. Where rings have run, a changed set
// means a driver that began anew, and rings laid out or notified differently; not
// so the bits that are the frontend's, such as VHOST_F_LOG_ALL when a migration
// begins.
func (s *session) setFeatures(m *message) error {
	acked := parseU64(m.payload)
	if acked&FeatureVersion1 == 0 {
		return errNoVersion1
	}
	features := acked & s.offered()
	if (acked^features)&FeatureRingPacked != 0 {
		return errPacked // QEMU 7.2 takes packed=on for an offer
	}
	if features != acked {
		if log, ok := s.server.limits.masked.Entry(s.log, s.server.loop.Now()); ok {
			log.WithField("features", fmt.Sprintf("0x%x", acked&^features)).Warn("features that were not offered are ignored")
		}
	}
	changed := (features^s.features)&^ourFeatures != 0
	if changed && s.ran() {
		for _, r := range s.rings {
			r.forget()
		}
		s.reset()
	}
	renegotiated := changed || !s.negotiated
	s.features, s.negotiated = features, true
	if renegotiated {
		s.server.device.Negotiated(features &^ ourFeatures)
	}
	return nil
}

// split and packed report how rings are laid out; neither is known before
// VHOST_USER_SET_FEATURES.
func (s *session) split() bool  { return s.negotiated && !s.packed() }
func (s *session) packed() bool { return s.features&FeatureRingPacked != 0 }

func (s *session) getProtocolFeatures(*message) ([]byte, error) {
	return u64Payload(uint64(s.server.protocol)), nil
}

func (s *session) setProtocolFeatures(m *message) error {
	const inBandNeeds = ProtocolBackendReq | ProtocolReplyAck
	acked := ProtocolFeatures(parseU64(m.payload))
	if unknown := acked &^ s.server.protocol; unknown != 0 {
		return fmt.Errorf("%w: %v", errNotOffered, unknown)
	}
	if acked&ProtocolInBandNotifications != 0 && acked&inBandNeeds != inBandNeeds {
		return errInBand
	}
	s.protocol = acked
	return nil
}

// inBand reports whether messages take the place of missing kick, call and err
// descriptors. QEMU negotiates it and passes descriptors all the same.
func (s *session) inBand() bool { return s.protocol&ProtocolInBandNotifications != 0 }

func (s *session) getQueueNum(*message) ([]byte, error) {
	return u64Payload(uint64(len(s.rings))), nil
}

// ignore serves VHOST_USER_SET_OWNER, which frontends send at different times
// and which we do not need, and VHOST_USER_RESET_OWNER, which is deprecated and
// MUST NOT cost the guest its connections.
func (s *session) ignore(*message) error { return nil }

// setBackendReqFd serves VHOST_USER_SET_BACKEND_REQ_FD, also while rings run:
// cloud-hypervisor sends it last.
func (s *session) setBackendReqFd(m *message) error {
	if len(m.fds) == 0 {
		return errNoDescriptor
	}
	if err := s.pollable(m.fds[0]); err != nil {
		return err
	}
	s.backend.set(m.takeFd())
	for _, r := range s.rings {
		if r.running && r.viaMessage(&r.call) {
			r.interrupt() // what went into a former channel may be lost
		}
	}
	return nil
}

// resetDevice serves VHOST_USER_RESET_DEVICE: what the driver set up is gone,
// what the frontend set up stays. QEMU sends neither memory nor protocol
// features again, and may send this before anything has run.
func (s *session) resetDevice(*message) error {
	for _, r := range s.rings {
		r.reset()
	}
	s.features, s.negotiated = 0, false
	s.reset()
	return nil
}
