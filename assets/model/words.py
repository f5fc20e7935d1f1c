"""Word lists of the generator, and the rule that keeps evaluation values out of training.

Invented values (names, places, codes, numbers) are split by hash: `held(v)` is true for one value in eight, and the
training generator never emits such a value while the evaluation generator emits nothing else. Wordings are split by
list: a template that starts with "~" is never used in training.
"""
import random
import zlib


def held(value):
    return zlib.crc32(value.encode()) % 8 == 0


ONSETS = ("b br c ch d dr f fl g gr h j k kr l m n p pl qu r s sh st t th tr v w y z sk sn bl cl").split()
VOWELS = "a e i o u ai ea oo ia ou y".split()
CODAS = ["n", "r", "l", "s", "x", "m", "th", "nd", "k", "t", "", "", "", "", "rn", "ck", "ss", "v"]

NAMES = """Anna Ben Clara David Emma Frank Grace Henry Iris Jack Kate Leo Maria Nina Oscar Paul Quinn Rosa Sam Tina Uma
Victor Wendy Xavier Yara Zoe Alice Bruno Carla Diego Elena Felix Greta Hugo Ivan Julia Karl Lena Marco Nora Otto Petra
Rita Simon Tara Ugo Vera Walter Ximena Yusuf Zara Amir Bella Cyrus Dora Eric Flora Gina Hana Igor Jonas Kira Luca Mila
Nils Olga Pablo Ruth Sven Theo Vlad Willa Max Rex Luna Milo Coco Daisy Rocky Oreo Ziggy Pepper Shadow Biscuit Ginger
Smokey Tiger Nala Simba Cleo Waffles Mochi Pickles Bandit""".split()
CITIES = """Paris London Rome Berlin Madrid Lisbon Vienna Prague Oslo Dublin Athens Cairo Tokyo Seoul Delhi Lima Quito
Boston Chicago Denver Austin Seattle Miami Dallas Toronto Montreal Sydney Perth Nairobi Lagos Zurich Geneva Naples Milan
Porto Seville Lyon Bergen Gdansk Krakow Tallinn Riga Hanoi Manila Osaka Kyoto Bogota Havana""".split()
COLORS = """red blue green yellow purple orange pink brown black white gray silver gold teal maroon turquoise violet
indigo crimson beige""".split()
FOODS = """pizza pasta sushi tacos soup salad curry rice bread cheese noodles pancakes waffles dumplings lasagna chili
risotto ramen burgers stew pie omelets falafel hummus""".split()
FRUITS = """apples pears plums grapes cherries mangoes bananas oranges lemons peaches melons kiwis figs dates berries
apricots papayas""".split()
ANIMALS = """cats dogs horses owls foxes wolves bears whales dolphins tigers lions penguins otters rabbits eagles
turtles""".split()
DRINKS = "coffee tea water milk juice cocoa lemonade cider soda".split()
SPORTS = """tennis soccer golf chess hockey rugby rowing swimming running boxing cycling skiing surfing
climbing""".split()
JOBS = """teacher nurse baker pilot farmer writer painter plumber lawyer doctor carpenter chef driver gardener librarian
engineer tailor sailor singer dentist""".split()
MONTHS = """January February March April May June July August September October November December""".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
NOUNS = """apple bridge candle desk engine feather garden hammer island jacket kettle ladder mirror needle ocean pencil
quilt river saddle table umbrella valley window yarn zipper anchor basket camera drum eagle fence glove harbor iron jewel
key lamp magnet nest onion piano quarry rope shell tower urn vase wheel arrow bottle cloud door egg flag glass hat ink
jar kite leaf moon nail oven paper ring stone tree vine wall box cup fish goat hill lion map net owl pot rug sand tent
wolf barn coin dish fork gate horn knife lock mask orb plate rake seed torch wagon brush chain clock crown""".split()
GROCERIES = """milk eggs butter flour sugar salt honey jam ham tofu beans peas corn oats tea coffee apples pears plums
carrots onions garlic potatoes tomatoes lettuce rice bread cheese yogurt soap candles batteries napkins pepper
vinegar""".split()
CHORES = """cleaning cooking ironing shopping reading painting gardening sweeping laundry dishes packing banking
baking sewing mopping dusting""".split()

RELATIVES = ["dog", "cat", "parrot", "horse", "hamster", "rabbit", "goldfish", "turtle", "sister", "brother", "mother",
             "father", "wife", "husband", "son", "daughter", "boss", "teacher", "neighbor", "cousin", "aunt", "uncle",
             "doctor", "roommate", "grandmother", "grandfather", "coach", "landlord", "best friend", "boat", "robot",
             "plant", "pony", "lizard", "snake", "canary"]
PEOPLE = ["sister", "brother", "mother", "father", "wife", "husband", "son", "daughter", "boss", "teacher", "neighbor",
          "cousin", "aunt", "uncle", "doctor", "roommate", "grandmother", "grandfather", "coach", "landlord",
          "best friend"]
PLACES = ["garage", "cellar", "office", "gym locker", "front door", "safe", "bike lock", "alarm", "wifi", "suitcase",
          "vault", "shed", "gate", "lab", "archive", "mailbox", "phone", "laptop", "studio", "boathouse", "attic",
          "library", "server room", "parking lot", "elevator", "workshop", "kitchen", "storage unit", "clinic",
          "greenhouse", "back door", "hotel room", "music room", "pool", "stable", "tool box", "printer", "tablet",
          "cabin", "warehouse"]
EVENTS = ["dentist appointment", "meeting", "concert", "exam", "flight", "interview", "party", "haircut", "wedding",
          "dinner", "lesson", "game", "picnic", "checkup"]
SAYINGS = ["the bus was late", "the soup was cold", "the shop is closed", "the train is full", "the lamp is broken",
           "the show was great", "the road is wet", "the cake was sweet", "the game was lost", "the door is open",
           "the rent is due", "the movie was long", "the garden looks good", "the water is warm", "the test was easy",
           "the boat is ready", "the music was loud", "the room is small", "the price went up", "the cat ran away"]

UPPER, LOWER, DIGITS = "ABCDEFGHJKLMNPQRSTUVWXYZ", "abcdefghijkmnopqrstuvwxyz", "0123456789"


class Values:
    """Random values from one side of the held-out split."""

    def __init__(self, seed, evaluation=False):
        self.rng = random.Random(seed)
        self.evaluation = evaluation

    def allowed(self, value):
        return held(value) == self.evaluation

    def name(self):
        """Invented name of two or three syllables; in training one in four is a common name."""
        if not self.evaluation and self.rng.random() < .25:
            return self.rng.choice(NAMES)
        while True:
            n = self.rng.choice((2, 2, 2, 3))
            word = "".join(self.rng.choice(ONSETS) + self.rng.choice(VOWELS) for _ in range(n))
            word = (word + self.rng.choice(CODAS)).capitalize()
            if len(word) <= 11 and word not in NAMES and self.allowed(word):
                return word

    def city(self):
        return self.name() if self.evaluation or self.rng.random() < .6 else self.rng.choice(CITIES)

    def code(self):
        """4 to 8 characters in four styles: mixed, digits, AB-123, lower case."""
        r = self.rng
        while True:
            n, style = r.randint(4, 8), r.random()
            if style < .4:
                c = "".join(r.choice(UPPER + DIGITS) for _ in range(n))
            elif style < .7:
                c = "".join(r.choice(DIGITS) for _ in range(r.randint(4, 6)))
            elif style < .85:
                c = "".join(r.choice(UPPER) for _ in range(r.randint(2, 3))) + "-"
                c += "".join(r.choice(DIGITS) for _ in range(r.randint(3, 4)))
            else:
                c = "".join(r.choice(LOWER + DIGITS) for _ in range(n))
            if self.allowed(c):
                return c

    def number(self, low=2, high=9999):
        while True:
            v = str(self.rng.randint(low, high))
            if self.allowed(v):
                return v

    def age(self):
        return str(self.rng.randint(6, 99))

    def clock(self):
        return "%d:%02d" % (self.rng.randint(1, 12), self.rng.randrange(0, 60, 5))

    def moment(self):
        return self.rng.choice(DAYS) + " at " + self.clock()

    def of(self, kind):
        """A value of `kind`: the name of a method above, or a closed list of words."""
        return self.rng.choice(kind) if isinstance(kind, list) else getattr(self, kind)()
