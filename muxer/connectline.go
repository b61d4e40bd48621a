package muxer

import (
	"bytes"
	"errors"
	"fmt"
	"math"
)

// maxConnectLine bounds the line a host program begins with, in bytes with its
// newline.
const maxConnectLine = 32

var (
	errConnectKeyword = errors.New(`line does not begin with "CONNECT "`)
	errConnectPort    = errors.New("port is not a decimal number below 2^32")
	errConnectEnd     = errors.New("port is not followed by a newline")
	errConnectLength  = fmt.Errorf("no newline within %d bytes", maxConnectLine)
)

// parseConnectLine looks for a complete line "CONNECT <port>\n" at the start of
// b. It returns the port and n, the bytes of the line with its newline; what
// follows them is the client's payload. n is 0 without an error while the line
// is incomplete: read more and call again with all of it. An error comes with
// the first byte that cannot be right, whatever follows.
//
// As clients write it (peers differ, this takes what most of them take): the
// keyword in any case, blanks or tabs around the port, "\r\n" for "\n", leading
// zeros.
func parseConnectLine(b []byte) (port uint32, n int, err error) {
	const keyword = "connect"
	line := b[:min(len(b), maxConnectLine)]

	i := 0
	for ; i < len(line) && i < len(keyword); i++ {
		if line[i]|0x20 != keyword[i] { // 0x20 is the case of a letter
			return 0, 0, errConnectKeyword
		}
	}
	if i < len(line) && !isBlank(line[i]) {
		return 0, 0, errConnectKeyword
	}
	i = skipBlanks(line, i)

	var value uint64
	digits := i
	for ; i < len(line) && '0' <= line[i] && line[i] <= '9'; i++ {
		if value = value*10 + uint64(line[i]-'0'); value > math.MaxUint32 {
			return 0, 0, errConnectPort
		}
	}
	if i < len(line) && i == digits {
		return 0, 0, errConnectPort
	}
	i = skipBlanks(line, i)

	if i < len(line) && line[i] == '\r' {
		i++
	}
	switch {
	case i < len(line) && line[i] == '\n':
		return uint32(value), i + 1, nil
	case i < len(line):
		return 0, 0, errConnectEnd
	case len(line) == maxConnectLine:
		return 0, 0, errConnectLength
	default:
		return 0, 0, nil
	}
}

// parseConnectMessage is parseConnectLine for a whole message: nothing may follow
// the line, and its newline may be missing.
func parseConnectMessage(b []byte) (port uint32, err error) {
	if !bytes.HasSuffix(b, []byte{'\n'}) {
		b = append(b, '\n')
	}
	port, n, err := parseConnectLine(b)
	if err == nil && n < len(b) {
		err = errConnectEnd
	}
	return port, err
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// skipBlanks returns the index of the first byte from i on that is no blank.
func skipBlanks(line []byte, i int) int {
	for i < len(line) && isBlank(line[i]) {
		i++
	}
	return i
}
