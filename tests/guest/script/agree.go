package script

import (
	"errors"
	"fmt"
	"slices"
)

// Agree returns an error unless both ends of a connection did all their steps and each
// received what the other sent. The error says all that is wrong.
func Agree(host, guest Report) error {
	return errors.Join(
		host.failed("host"),
		guest.failed("guest"),
		Arrived("host to guest", host, guest),
		Arrived("guest to host", guest, host),
	)
}

func (r Report) failed(end string) error {
	if err := r.Err(); err != nil {
		return fmt.Errorf("%s, after %d bytes sent and %d received: %w", end, r.Sent, r.Received, err)
	}
	return nil
}

// Arrived returns an error unless to received the bytes and messages that from sent;
// way says in the error which way that was.
func Arrived(way string, from, to Report) error {
	switch {
	case from.Sent != to.Received:
		return fmt.Errorf("%s: %d bytes sent, %d received", way, from.Sent, to.Received)
	case from.SentSum != to.ReceivedSum:
		return fmt.Errorf("%s: %d bytes arrived changed", way, from.Sent)
	case !slices.Equal(from.SentMessages, to.ReceivedMessages):
		return fmt.Errorf("%s: messages of %v bytes sent, of %v received", way, from.SentMessages, to.ReceivedMessages)
	}
	return nil
}
