package main

// patternLength is prime, so that no chunk or packet begins where another did.
const patternLength = 65537

// pattern is what streams consist of where they are looked at: byte i of each is
// pattern[i%patternLength]. It is there twice, so that pieces need no wrapping.
var pattern = func() []byte {
	p := make([]byte, 2*patternLength)
	x := uint32(1)
	for i := range patternLength {
		x = x*1664525 + 1013904223
		p[i] = byte(x >> 24)
		p[i+patternLength] = p[i]
	}
	return p
}()

// fill writes the bytes of a stream from offset at on, at most 64 KiB.
func fill(p []byte, at uint64) { copy(p, pattern[at%patternLength:]) }

// matches reports whether p is what a stream has from offset at on.
func matches(p []byte, at uint64) bool {
	return string(p) == string(pattern[at%patternLength:][:len(p)])
}
