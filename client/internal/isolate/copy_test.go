package isolate

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"rpc.do"
)

type (
	word      string
	recursive struct{ Next *recursive }
	mutualA   struct{ B []mutualB }
	mutualB   struct{ A map[string]mutualA }
	base      struct{ N int }

	encodes struct{ N int }
	decodes struct{ N int }
	texts   string
	reads   string
	zeroed  int

	// Structs without fields that encode themselves.
	pointerNull struct{}
	list        struct{}
	broken      struct{}
	choosy      struct{}
	choosyText  struct{}
	textual     struct{}
)

func (*encodes) MarshalJSON() ([]byte, error)     { return []byte(`{"N":7}`), nil }
func (*decodes) UnmarshalJSON([]byte) error       { return nil }
func (texts) MarshalText() ([]byte, error)        { return []byte("text"), nil }
func (*reads) UnmarshalText([]byte) error         { return nil }
func (z zeroed) IsZero() bool                     { return z == 3 }
func (*pointerNull) MarshalJSON() ([]byte, error) { return []byte("null"), nil }
func (list) MarshalJSON() ([]byte, error)         { return []byte("[]"), nil }
func (broken) MarshalJSON() ([]byte, error)       { return nil, errBroken }
func (choosy) MarshalJSON() ([]byte, error)       { return []byte("null"), nil }
func (*choosy) UnmarshalJSON([]byte) error        { return errBroken }
func (choosyText) MarshalJSON() ([]byte, error)   { return []byte("null"), nil }
func (*choosyText) UnmarshalText([]byte) error    { return errBroken }
func (textual) MarshalText() ([]byte, error)      { return []byte("text"), nil }

var errBroken = rpc.Internal.Errorf("broken")

// tagged returns a struct with one field. The tag is one that linters object to.
func tagged(tag reflect.StructTag) any {
	v := reflect.New(reflect.StructOf([]reflect.StructField{
		{Name: "N", Type: reflect.TypeFor[int](), Tag: tag},
	})).Elem()
	v.Field(0).SetInt(1)
	return v.Interface()
}

func ptr[T any](v T) *T { return &v }

// Each value is copied, and the copy is what a JSON round trip gives.
func TestCopied(t *testing.T) {
	t.Parallel()
	for name, v := range map[string]any{
		"bool":             true,
		"least int":        int64(math.MinInt64),
		"greatest uint":    uint64(math.MaxUint64),
		"greatest float":   math.MaxFloat64,
		"least float":      math.SmallestNonzeroFloat64,
		"longest float":    -0.0000012345678901234567,
		"float32":          float32(0.1),
		"least float32":    float32(math.SmallestNonzeroFloat32),
		"negative zero":    math.Copysign(0, -1),
		"text":             "Grüße \u2028 \x00 <&> \"\\ 日本 🎉 \uFFFD",
		"named string":     word("w"),
		"duration":         time.Minute,
		"none":             rpc.None{},
		"nones":            map[string][]rpc.None{"a": {{}, {}}},
		"no fields":        struct{}{},
		"pointer to empty": &struct{ P *struct{} }{&struct{}{}},
		"nil pointer":      (*int)(nil),
		"nil in pointers":  ptr(ptr((*int)(nil))),
		"nil slice behind": struct{ P *[]int }{ptr([]int(nil))},
		"empty behind":     struct{ P *[]int }{ptr([]int{})},
		"nil map behind":   struct{ P **map[string]int }{ptr(ptr(map[string]int(nil)))},
		"nil slice":        []int(nil),
		"empty slice":      []int{},
		"slices":           [][]string{nil, {}, {"a", ""}},
		"pointers":         []*int{ptr(1), nil, ptr(2)},
		"nil bytes":        []byte(nil),
		"empty bytes":      []byte{},
		"bytes":            []byte("\xff\x00ab"),
		"array":            [3]*string{ptr("a"), nil, ptr("b")},
		"byte array":       [4]byte{1, 2, 3, 255},
		"empty array":      [0]string{},
		"nil map":          map[string]int(nil),
		"empty map":        map[word]int{},
		"map":              map[string]map[word][]*float64{"": nil, "é": {"<": {ptr(1.5), nil}}},
		"plain struct":     struct{ A, B int8 }{1, 2},
		"padding": struct {
			A bool
			B int64
			C bool
		}{true, 1 << 40, true},
		"unexported": struct {
			A     int
			inner int
			B     int
			_     int
			C     string
		}{1, 2, 3, 4, "c"},
		"hidden": struct {
			A    int
			F    func() `json:"-"`
			base `json:"-"`
			B    int
		}{A: 1, F: func() {}, base: base{2}, B: 3},
		"only unexported": struct{ mu *int }{ptr(1)},
		"renamed": struct {
			A int    `json:"b"`
			D string `json:",omitempty"`
			É string
		}{1, "", "e"},
		"named dash": tagged(`json:"-,"`),
		"omitempty": struct {
			S []int           `json:",omitempty"`
			M map[string]int  `json:",omitempty"`
			P *int            `json:",omitempty"`
			Q *[]int          `json:",omitempty"`
			F float64         `json:",omitempty"`
			G float32         `json:",omitempty"`
			T struct{ A int } `json:",omitempty"`
			N [0]int          `json:",omitempty"`
		}{S: []int{}, M: map[string]int{}, P: ptr(0), Q: ptr([]int{}), F: math.Copysign(0, -1), G: float32(math.Copysign(0, -1))},
		"omitempty, full": struct {
			S []int          `json:",omitempty"`
			M map[string]int `json:",omitempty"`
			F float64        `json:",omitempty"`
			G float32        `json:",omitempty"`
		}{[]int{1}, map[string]int{"a": 1}, 1, 2},
		"omitzero": struct {
			S []int          `json:",omitzero"`
			M map[string]int `json:",omitzero"`
			P *int           `json:",omitzero"`
			F float64        `json:",omitzero"`
			T string         `json:",omitzero"`
		}{[]int{}, map[string]int{}, ptr(0), math.Copysign(0, -1), ""},
		"order": *sampleOrder(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src := reflect.New(reflect.TypeOf(v))
			src.Elem().Set(reflect.ValueOf(v))
			if !checkCopy(t, src, math.MaxInt64) {
				t.Errorf("%#v was not copied", v)
			}
		})
	}
}

// Types and values that are left to a real round trip.
func TestNotCopied(t *testing.T) {
	t.Parallel()
	for name, v := range map[string]any{
		"interface":      struct{ V any }{1},
		"func":           struct{ F func() }{},
		"chan":           make(chan int),
		"complex":        complex(1, 2),
		"uintptr":        uintptr(1),
		"recursive":      recursive{&recursive{}},
		"mutual":         mutualA{},
		"mutual, inside": mutualB{},
		"embedded":       struct{ base }{base{1}},
		"embedded, named": struct {
			base `json:"b"`
		}{base{1}},
		"time":              time.Unix(0, 0),
		"raw message":       json.RawMessage(`{}`),
		"number":            json.Number(""),
		"encodes":           []encodes{{1}},
		"decodes":           []decodes{{1}},
		"text":              texts("a"),
		"reads text":        reads("a"),
		"pointer to method": struct{ P *encodes }{},
		"pointer to none":   &rpc.None{},
		"null by pointer":   struct{ N pointerNull }{},
		"list for nothing":  list{},
		"broken":            broken{},
		"choosy":            choosy{},
		"choosy, text":      choosyText{},
		"textual":           textual{},
		"int keys":          map[int]string{1: "a"},
		"text keys":         map[texts]string{},
		"as string":         tagged(`json:",string"`),
		"unknown option":    tagged(`json:",inline"`),
		"odd name":          tagged(`json:"a\"b"`),
		"escaped name":      tagged(`json:"a<b"`),
		// vet would complain if the type were spelled out.
		"same name": reflect.Zero(reflect.StructOf([]reflect.StructField{
			{Name: "A", Type: reflect.TypeFor[int](), Tag: `json:"n"`},
			{Name: "B", Type: reflect.TypeFor[int](), Tag: `json:"n"`},
		})).Interface(),
		"same name, folded": struct {
			A int `json:"kilo"`
			B int `json:"KILO"`
		}{1, 2},
		"IsZero": struct {
			N zeroed `json:",omitzero"`
		}{3},
		"omitzero, struct": struct {
			P point `json:",omitzero"`
		}{point{A: math.Copysign(0, -1)}},
		"NaN":           math.NaN(),
		"infinite":      []float32{float32(math.Inf(-1))},
		"not UTF-8":     "abc\xff",
		"surrogate":     "\xed\xa0\x80",
		"key not UTF-8": map[string]int{"\xc3": 1},
		"huge array":    [1 << 40]struct{}{},
		"huge sum":      struct{ A, B [1 << 38]struct{} }{},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src := reflect.New(reflect.TypeOf(v))
			src.Elem().Set(reflect.ValueOf(v))
			if checkCopy(t, src, math.MaxInt64) {
				t.Errorf("%#v was copied", v)
			}
		})
	}
}

func TestArguments(t *testing.T) {
	t.Parallel()
	n := 1
	for _, c := range []struct{ dst, src any }{
		{nil, nil},
		{&n, nil},
		{nil, &n},
		{n, n},
		{&n, (*int)(nil)},
		{(*int)(nil), &n},
		{new(int64), &n},
		{new(word), new(string)},
	} {
		if CopyAny(c.dst, c.src, math.MaxInt64) {
			t.Errorf("CopyAny(%T, %T) = true", c.dst, c.src)
		}
	}
}

// What dst held before makes no difference.
func TestDestinationInUse(t *testing.T) {
	t.Parallel()
	type params struct {
		A, b int
		S    []int `json:",omitempty"`
		P    *int
	}
	dst := params{1, 2, []int{3}, ptr(4)}
	if !CopyAny(&dst, &params{A: 5}, math.MaxInt64) || !reflect.DeepEqual(dst, params{A: 5}) {
		t.Errorf("got %+v", dst)
	}
}

func TestLimit(t *testing.T) {
	t.Parallel()
	for name, v := range map[string]any{
		"plain":   ptr(strings.Repeat("plain text ", 100)),
		"escaped": ptr(strings.Repeat("\x00", 100)),
		"unicode": ptr(strings.Repeat("日本", 100)),
		"breaks":  ptr(strings.Repeat("\u2028", 100)),
		"bytes":   ptr(make([]byte, 1000)),
		"fields":  &struct{ Alpha, Beta string }{"a", "b"},
		"texts":   ptr([]string{"a", "b", "c"}),
		"keys":    &map[string]string{"a": "b", "c": "d"},
		"array":   &[3]string{"a", "b", "c"},
		"false":   ptr(false),
		"float":   ptr(-0.0000012345678901234567),
		"float32": ptr(-math.SmallestNonzeroFloat32),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			size := int64(len(mustEncode(t, v)))
			src := reflect.ValueOf(v)
			if checkCopy(t, src, size-1) {
				t.Errorf("copied, with a limit of %d bytes for %d", size-1, size)
			}
			// The bound counts one comma too many in a list, and null for a nil.
			if !checkCopy(t, src, size+3) {
				t.Errorf("not copied, with a limit of %d bytes for %d", size+3, size)
			}
		})
	}
	empty := make([]struct{}, math.MaxInt)
	if CopyAny(&[]struct{}{}, &empty, math.MaxInt64) {
		t.Error("a list longer than any limit was copied")
	}
	if CopyAny(&[1 << 62]struct{}{}, &[1 << 62]struct{}{}, 1000) {
		t.Error("an array longer than any limit was copied")
	}
	for _, limit := range []int64{0, -1, math.MinInt64} {
		if CopyAny(new(int), ptr(1), limit) {
			t.Errorf("copied with the limit %d", limit)
		}
	}
}

func TestSmallStructDoesNotAllocate(t *testing.T) {
	src, dst := &point{1, 2, strings.Repeat("x", 128)}, &point{}
	if n := testing.AllocsPerRun(100, func() { CopyAny(dst, src, math.MaxInt64) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A type's first use may happen in many goroutines at once.
func TestFirstUseAtOnce(t *testing.T) {
	t.Parallel()
	for i := range 20 {
		// No other test has an array as long, so nobody has used the type.
		typ := reflect.StructOf([]reflect.StructField{
			{Name: "Order", Type: reflect.TypeFor[order]()},
			{Name: "Fresh", Type: reflect.ArrayOf(1000+i, reflect.TypeFor[string]())},
			{Name: "Lists", Type: reflect.TypeFor[map[string][]*line]()},
		})
		src := reflect.New(typ)
		src.Elem().Field(0).Set(reflect.ValueOf(*sampleOrder()))
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if !checkCopy(t, src, math.MaxInt64) {
					t.Error("not copied")
				}
			})
		}
		wg.Wait()
	}
}

// checkCopy copies what src points to and reports whether that was possible. It
// fails the test when the copy differs from a JSON round trip, when the JSON is
// longer than the limit, and when dst is not zero after a refusal.
func checkCopy(t testing.TB, src reflect.Value, limit int64) bool {
	t.Helper()
	dst := reflect.New(src.Type().Elem())
	if !CopyAny(dst.Interface(), src.Interface(), limit) {
		if !dst.Elem().IsZero() {
			t.Errorf("%T: not zero after a refusal: %#v", src.Interface(), dst.Elem())
		}
		return false
	}
	data := mustEncode(t, src.Interface())
	if int64(len(data)) > limit {
		t.Errorf("%T: copied, though the JSON has %d bytes, the limit being %d: %s", src.Interface(), len(data), limit, data)
	}
	want := reflect.New(src.Type().Elem())
	if err := json.Unmarshal(data, want.Interface()); err != nil {
		t.Errorf("%T: copied, though the JSON can't be decoded: %v", src.Interface(), err)
		return true
	}
	if !reflect.DeepEqual(dst.Interface(), want.Interface()) || negativeZeros(dst) != negativeZeros(want) {
		t.Errorf("%T: the copy is not what a round trip gives\nJSON %s\nfrom %#v\ngot  %#v\nwant %#v",
			src.Interface(), data, src.Elem(), dst.Elem(), want.Elem())
	}
	return true
}

// negativeZeros counts what DeepEqual can't tell from zero.
func negativeZeros(v reflect.Value) int {
	n := 0
	switch v.Kind() {
	case reflect.Float32, reflect.Float64:
		if v.Float() == 0 && math.Signbit(v.Float()) {
			n++
		}
	case reflect.Pointer:
		if !v.IsNil() {
			n += negativeZeros(v.Elem())
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			n += negativeZeros(v.Index(i))
		}
	case reflect.Map:
		for _, elem := range v.Seq2() {
			n += negativeZeros(elem)
		}
	case reflect.Struct:
		for _, f := range v.Fields() {
			n += negativeZeros(f)
		}
	}
	return n
}

func mustEncode(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatalf("%T: can't be encoded: %v", v, err)
	}
	return data
}
