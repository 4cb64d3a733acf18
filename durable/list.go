package durable

// Apply returns those of the entries that opts asks for, in their order. It may
// change the slice.
func (opts ListOptions) Apply(entries []Entry) []Entry {
	kept := entries[:0]
	for _, e := range entries {
		if opts.has(e.Key) {
			kept = append(kept, e)
		}
	}
	return opts.order(kept)
}

// ValidateKey checks the key of an entry: UTF-8 text of 1 to 256 bytes. The
// error is an InvalidArgument.
func ValidateKey(key string) error { return checkKey(key) }
