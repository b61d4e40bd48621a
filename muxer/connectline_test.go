package muxer

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"
)

func TestParseConnectLine(t *testing.T) {
	for _, test := range []struct {
		name string
		line string
		port uint32
		n    int // 0: incomplete, or err
		err  error
	}{
		// The line clients send.
		{"upper case", "CONNECT 1234\n", 1234, 13, nil},
		{"lower case", "connect 1234\n", 1234, 13, nil},
		{"mixed case", "cOnNeCt 1234\n", 1234, 13, nil},
		{"carriage return", "CONNECT 52\r\n", 52, 12, nil},
		{"shortest", "connect 0\n", 0, 10, nil},
		{"blanks around the port", "CONNECT  1337 \n", 1337, 15, nil},
		{"tabs around the port", "CONNECT\t1337\t\n", 1337, 14, nil},
		{"blank and carriage return", "CONNECT 1337 \r\n", 1337, 15, nil},
		{"leading zeros", "CONNECT 00052\n", 52, 14, nil},
		{"largest port", "CONNECT 4294967295\n", math.MaxUint32, 19, nil},
		{"32 bytes", "CONNECT 7" + strings.Repeat(" ", 22) + "\n", 7, 32, nil},
		{"32 bytes of zeros", "CONNECT " + strings.Repeat("0", 23) + "\n", 0, 32, nil},
		{"32 bytes with carriage return", "CONNECT " + strings.Repeat(" ", 21) + "7\r\n", 7, 32, nil},

		// Payload behind the line is not ours.
		{"payload", "CONNECT 1\nHello\n", 1, 10, nil},
		{"payload that looks like a line", "CONNECT 1\nCONNECT 2\n", 1, 10, nil},
		{"payload of newlines", "CONNECT 1\n\n\n", 1, 10, nil},
		{"payload beyond the bound", "CONNECT 1\n" + strings.Repeat("x", 1000), 1, 10, nil},
		{"payload not ASCII", "CONNECT 1\n\xff\x00", 1, 10, nil},

		// More must be read.
		{"nothing", "", 0, 0, nil},
		{"part of the keyword", "CONN", 0, 0, nil},
		{"keyword", "CONNECT", 0, 0, nil},
		{"keyword and blank", "CONNECT ", 0, 0, nil},
		{"no newline", "connect 1337", 0, 0, nil},
		{"no newline behind a carriage return", "connect 1337\r", 0, 0, nil},
		{"31 bytes", "CONNECT 7" + strings.Repeat(" ", 22), 0, 0, nil},

		// Never a CONNECT line: known at the first wrong byte.
		{"empty line", "\n", 0, 0, errConnectKeyword},
		{"keyword cut by a newline", "CONN\n", 0, 0, errConnectKeyword},
		{"keyword only", "CONNECT\n", 0, 0, errConnectKeyword},
		{"other keyword", "FOO ", 0, 0, errConnectKeyword},
		{"other long keyword", "FOOFOOX ", 0, 0, errConnectKeyword},
		{"first byte", "G", 0, 0, errConnectKeyword},
		{"blank first", " CONNECT 1\n", 0, 0, errConnectKeyword},
		{"no blank behind the keyword", "CONNECT1\n", 0, 0, errConnectKeyword},
		{"newline behind the keyword", "CONNECT\n1\n", 0, 0, errConnectKeyword},
		{"keyword not ASCII", "CONNECT\xa0" + "1\n", 0, 0, errConnectKeyword},
		{"byte that only the case bit makes a letter", "\x03ONNECT 1\n", 0, 0, errConnectKeyword},
		{"zero bytes", "\x00\x00\x00", 0, 0, errConnectKeyword},
		{"no port", "connect \n", 0, 0, errConnectPort},
		{"no port but carriage return", "connect \r\n", 0, 0, errConnectPort},
		{"negative port", "connect -1337\n", 0, 0, errConnectPort},
		{"signed port", "connect +52\n", 0, 0, errConnectPort},
		{"hexadecimal port", "connect 0x34\n", 0, 0, errConnectEnd},
		{"GUID for a port", "connect 00000000-facb-11e6\n", 0, 0, errConnectEnd},
		{"digit not ASCII", "connect \xd9\xa1\n", 0, 0, errConnectPort},
		{"port of 2^32", "connect 4294967296", 0, 0, errConnectPort},
		{"port of 2^33", "connect 8589934592\n", 0, 0, errConnectPort},
		{"port of 2^64", "connect 18446744073709551616\n", 0, 0, errConnectPort},
		{"port of 2^64 + 52 behind zeros", "connect 0018446744073709551668\n", 0, 0, errConnectPort},
		{"two ports", "connect 1 2\n", 0, 0, errConnectEnd},
		{"junk behind the port", "connect 52 x\n", 0, 0, errConnectEnd},
		{"zero byte behind the port", "connect 52\x00\n", 0, 0, errConnectEnd},
		{"carriage return in the port", "connect 5\r2\n", 0, 0, errConnectEnd},
		{"carriage return twice", "connect 5\r\r\n", 0, 0, errConnectEnd},
		{"blank behind a carriage return", "connect 5\r \n", 0, 0, errConnectEnd},
		{"vertical tab", "connect 5\v\n", 0, 0, errConnectEnd},
		{"32 bytes without newline", "CONNECT 7" + strings.Repeat(" ", 23), 0, 0, errConnectLength},
		{"32 blanks without port", "CONNECT " + strings.Repeat(" ", 24), 0, 0, errConnectLength},
		{"32 bytes ending in a carriage return", "CONNECT 7" + strings.Repeat(" ", 22) + "\r", 0, 0, errConnectLength},
		{"newline is byte 33", "CONNECT 7" + strings.Repeat(" ", 23) + "\n", 0, 0, errConnectLength},
	} {
		t.Run(test.name, func(t *testing.T) {
			port, n, err := parseConnectLine([]byte(test.line))
			if port != test.port || n != test.n || !errors.Is(err, test.err) {
				t.Errorf("parseConnectLine(%q) = %d, %d, %v, want %d, %d, %v",
					test.line, port, n, err, test.port, test.n, test.err)
			}
			// In pieces: nothing before the byte that decides, the same from there on.
			for cut := range len(test.line) {
				p, m, e := parseConnectLine([]byte(test.line[:cut]))
				switch undecided := p == 0 && m == 0 && e == nil; {
				case undecided:
				case test.n > 0 && cut >= test.n && p == port && m == n && e == nil:
				case test.err != nil && errors.Is(e, test.err):
				default:
					t.Errorf("parseConnectLine(%q) = %d, %d, %v", test.line[:cut], p, m, e)
				}
			}
		})
	}
}

func TestParseConnectLineErrsAtTheFirstWrongByte(t *testing.T) {
	for _, line := range []string{
		"X", "CONNECTX", "CONNECT X", "CONNECT 1X", "CONNECT 1 X", "CONNECT 1\rX",
		"CONNECT 42949672950", "CONNECT 4294967296", "CONNECT \n",
	} {
		if _, _, err := parseConnectLine([]byte(line)); err == nil {
			t.Errorf("%q is not refused", line)
		}
		if _, n, err := parseConnectLine([]byte(line[:len(line)-1])); n != 0 || err != nil {
			t.Errorf("%q is decided: %d, %v", line[:len(line)-1], n, err)
		}
	}
}

func TestParseConnectLineAllocs(t *testing.T) {
	good, bad := []byte("CONNECT 1234\nHello"), []byte("CONNECT x\n")
	if n := testing.AllocsPerRun(1000, func() {
		parseConnectLine(good)
		parseConnectLine(bad)
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func FuzzParseConnectLine(f *testing.F) {
	for _, seed := range []string{
		"", "\n", "CONN\n", "FOO ", "CONNECT ", "connect \n", "connect 1337", "connect -1337\n",
		"connect 8589934592\n", "CONNECT\xff1\n", "CONNECT  1337 \n", "CONNECT 52\r\n", "CONNECT\t0\t\r\npayload",
		"CONNECT 4294967295\n\n", "CONNECT 18446744073709551668\n",
		"CONNECT 7" + strings.Repeat(" ", 22) + "\n", "CONNECT 7" + strings.Repeat(" ", 23) + "\n",
	} {
		f.Add([]byte(seed), []byte("more"))
	}
	f.Fuzz(func(t *testing.T, b, more []byte) {
		port, n, err := parseConnectLine(b)
		switch {
		case n < 0 || n > len(b) || n > maxConnectLine:
			t.Fatalf("n is %d of %d bytes", n, len(b))
		case err != nil && (port != 0 || n != 0):
			t.Fatalf("an error with %d, %d", port, n)
		case n == 0 && port != 0:
			t.Fatalf("port %d of an incomplete line", port)
		case n == 0 && err == nil && (len(b) >= maxConnectLine || bytes.IndexByte(b, '\n') >= 0):
			t.Fatal("a line that is over is incomplete")
		case n > 0 && bytes.IndexByte(b, '\n') != n-1:
			t.Fatalf("n is %d, but the first newline is elsewhere", n)
		}

		if n > 0 || err != nil { // decided: no further byte changes it
			p, m, e := parseConnectLine(append(bytes.Clone(b), more...))
			if p != port || m != n || e != err {
				t.Fatalf("%d, %d, %v becomes %d, %d, %v", port, n, err, p, m, e)
			}
		}
		if err == nil { // every prefix of a line, or of a possible one, is incomplete
			end := n
			if n == 0 {
				end = len(b)
			}
			for cut := range end {
				if p, m, e := parseConnectLine(b[:cut]); p != 0 || m != 0 || e != nil {
					t.Fatalf("prefix of %d bytes: %d, %d, %v", cut, p, m, e)
				}
			}
		}
	})
}

func BenchmarkParseConnectLine(b *testing.B) {
	line := []byte("CONNECT 1234\nHello")
	b.ReportAllocs()
	for b.Loop() {
		parseConnectLine(line)
	}
}
