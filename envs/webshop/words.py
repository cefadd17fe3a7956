"""The words that generated catalogues are made of."""

from __future__ import annotations

from typing import NamedTuple


class Category(NamedTuple):
    """A department of the shop.

    Attributes:
        name: as in the original's `category`.
        path: the upper levels of `product_category`.
        kinds: what is sold: the query that it is found under, and the words that a title calls it.
        attributes: what a product can have, as the original names attributes.
        options: names of the options; see `OPTIONS`.
        price: the dollars between which most prices lie.
    """

    name: str
    path: str
    kinds: tuple[tuple[str, str], ...]
    attributes: tuple[str, ...]
    options: tuple[str, ...]
    price: tuple[float, float]


CATEGORIES = (
    Category(
        "fashion",
        "Clothing, Shoes & Jewelry › Women",
        (
            ("women's sandals", "Women's Platform Sandals"),
            ("women's sweaters", "Women's Knit Sweater"),
            ("women's dresses", "Women's Summer Dress"),
            ("women's boots", "Women's Ankle Boots"),
            ("women's leggings", "Women's Yoga Leggings"),
        ),
        (
            *(
                "arch support",
                "rubber sole",
                "machine wash",
                "loose fit",
                "long sleeve",
                "open toe",
                "ankle strap",
            ),
            *("tummy control", "high waist", "hand wash", "relaxed fit", "quick drying"),
        ),
        ("color", "women's size"),
        (12, 80),
    ),
    Category(
        "fashion",
        "Clothing, Shoes & Jewelry › Men",
        (
            ("men's shirts", "Men's Button Down Shirt"),
            ("men's jackets", "Men's Windbreaker Jacket"),
            ("men's shorts", "Men's Cargo Shorts"),
            ("men's loafers", "Men's Slip On Loafers"),
            ("men's hoodies", "Men's Pullover Hoodie"),
        ),
        (
            *(
                "slim fit",
                "classic fit",
                "moisture wicking",
                "button closure",
                "elastic waist",
                "polyester spandex",
            ),
            *(
                "short sleeve",
                "water resistant",
                "memory foam",
                "zipper pockets",
                "wash cold",
                "stretch fabric",
            ),
        ),
        ("color", "men's size"),
        (14, 95),
    ),
    Category(
        "electronics",
        "Electronics › Headphones",
        (
            ("headphones", "Wireless Over Ear Headphones"),
            ("earbuds", "Bluetooth Earbuds with Charging Case"),
            ("gaming headsets", "Gaming Headset with Microphone"),
        ),
        (
            *(
                "noise cancelling",
                "hands free",
                "stereo sound",
                "fast charging",
                "long battery life",
                "water proof",
            ),
            *("low latency", "built in microphone", "foldable design", "deep bass"),
        ),
        ("color", "style"),
        (18, 240),
    ),
    Category(
        "electronics",
        "Electronics › Accessories & Supplies",
        (
            ("hdmi cables", "High Speed HDMI Cable"),
            ("tripods", "Aluminum Camera Tripod"),
            ("portable speakers", "Portable Bluetooth Speaker"),
            ("tv mounts", "Full Motion TV Wall Mount"),
        ),
        (
            *(
                "gold plated",
                "heavy duty",
                "quick release",
                "easy carry",
                "high resolution",
                "ultra hd",
                "plug play",
            ),
            *("carbon fiber", "tangle free", "high definition"),
        ),
        ("length", "color"),
        (8, 150),
    ),
    Category(
        "beauty",
        "Beauty & Personal Care › Hair Care",
        (
            ("shampoo & conditioner", "Hydrating Shampoo and Conditioner"),
            ("hair masks", "Repair Hair Mask"),
            ("hair dryers", "Ionic Hair Dryer"),
            ("hair brushes", "Detangling Hair Brush"),
        ),
        (
            *(
                "sulfate free",
                "paraben free",
                "cruelty free",
                "argan oil",
                "dry hair",
                "damaged hair",
                "color safe",
            ),
            *("tea tree", "coconut oil", "anti frizz"),
        ),
        ("scent", "volume"),
        (6, 60),
    ),
    Category(
        "beauty",
        "Beauty & Personal Care › Skin Care",
        (
            ("face moisturizers", "Daily Face Moisturizer"),
            ("lip balms", "Nourishing Lip Balm"),
            ("sunscreens", "Mineral Sunscreen Lotion"),
            ("body lotions", "Fragrant Body Lotion"),
        ),
        (
            *(
                "hyaluronic acid",
                "fragrance free",
                "sensitive skin",
                "dark circles",
                "fine lines",
                "clinically proven",
            ),
            *("alcohol free", "vitamin c", "dermatologist tested", "non greasy"),
        ),
        ("scent", "volume"),
        (5, 70),
    ),
    Category(
        "grocery",
        "Grocery & Gourmet Food › Snack Foods",
        (
            ("snack foods", "Crunchy Snack Mix"),
            ("granola bars", "Chewy Granola Bars"),
            ("potato chips", "Kettle Cooked Potato Chips"),
            ("dried fruit", "Sun Dried Fruit Snacks"),
            ("nuts", "Roasted Mixed Nuts"),
        ),
        (
            *(
                "gluten free",
                "non gmo",
                "low sodium",
                "plant based",
                "protein serving",
                "dairy free",
                "low sugar",
            ),
            *("kosher certified", "nut free", "artificial flavors"),
        ),
        ("flavor", "pack"),
        (4, 45),
    ),
    Category(
        "grocery",
        "Grocery & Gourmet Food › Beverages",
        (
            ("coffee", "Ground Coffee"),
            ("tea", "Loose Leaf Tea"),
            ("drink mixes", "Powdered Drink Mix"),
        ),
        (
            *(
                "caffeine free",
                "usda organic",
                "fair trade",
                "freeze dried",
                "keto friendly",
                "zero sugar",
                "small batch",
            ),
            *("shelf stable", "single serve", "rich flavor"),
        ),
        ("flavor", "pack"),
        (5, 50),
    ),
    Category(
        "garden",
        "Home & Kitchen › Furniture",
        (
            ("sofas and couches", "Convertible Sofa Couch"),
            ("coffee tables", "Coffee Table with Storage"),
            ("bookcases", "Ladder Bookcase"),
            ("bar stools", "Swivel Bar Stool"),
            ("nightstands", "Bedside Nightstand"),
        ),
        (
            *(
                "solid wood",
                "easy assemble",
                "mid century",
                "button tufted",
                "metal legs",
                "faux leather",
                "height adjustable",
            ),
            *("space saving", "coated steel", "wood finish"),
        ),
        ("color", "furniture size"),
        (45, 900),
    ),
    Category(
        "garden",
        "Home & Kitchen › Bedding",
        (
            ("throw blankets", "Fleece Throw Blanket"),
            ("pillow covers", "Decorative Pillow Covers"),
            ("bed sheets", "Microfiber Bed Sheet Set"),
            ("curtains", "Blackout Window Curtains"),
        ),
        (
            *(
                "super soft",
                "machine washable",
                "double sided",
                "fade resistant",
                "wrinkle free",
                "hypoallergenic fabric",
            ),
            *("deep pocket", "thermal insulated", "hidden zipper", "twin size"),
        ),
        ("color", "bed size"),
        (10, 120),
    ),
    Category(
        "kitchen",
        "Home & Kitchen › Kitchen & Dining",
        (
            ("water bottles", "Insulated Water Bottle"),
            ("frying pans", "Nonstick Frying Pan"),
            ("knife sets", "Kitchen Knife Set"),
            ("storage containers", "Food Storage Containers"),
        ),
        (
            *(
                "stainless steel",
                "bpa free",
                "dishwasher safe",
                "leak proof",
                "oven safe",
                "double wall",
                "lead free",
            ),
            *("non stick", "ergonomic handle", "induction compatible"),
        ),
        ("color", "volume"),
        (9, 130),
    ),
    Category(
        "sports",
        "Sports & Outdoors › Fitness",
        (
            ("yoga mats", "Exercise Yoga Mat"),
            ("dumbbells", "Adjustable Dumbbells"),
            ("backpacks", "Hiking Backpack"),
            ("camping tents", "Family Camping Tent"),
        ),
        (
            *(
                "non slip",
                "extra thick",
                "tear resistant",
                "sweat resistant",
                "rust proof",
                "carrying strap",
                "light weight",
            ),
            *("quick setup", "padded straps", "weather resistant"),
        ),
        ("color", "sport size"),
        (12, 260),
    ),
    Category(
        "toys",
        "Toys & Games › Learning & Education",
        (
            ("building blocks", "Magnetic Building Blocks"),
            ("puzzles", "Jigsaw Puzzle"),
            ("board games", "Family Board Game"),
            ("stuffed animals", "Plush Stuffed Animal"),
        ),
        (
            *(
                "child safe",
                "battery free",
                "hand painted",
                "travel friendly",
                "eco friendly",
                "sensory play",
                "soft plush",
            ),
            *("age appropriate", "storage bag", "bright colors"),
        ),
        ("theme", "piece count"),
        (7, 90),
    ),
    Category(
        "pets",
        "Pet Supplies › Dogs",
        (
            ("dog beds", "Orthopedic Dog Bed"),
            ("dog leashes", "Reflective Dog Leash"),
            ("dog toys", "Durable Dog Chew Toy"),
            ("dog bowls", "Elevated Dog Bowl"),
        ),
        (
            *(
                "chew proof",
                "anti slip",
                "removable cover",
                "orthopedic foam",
                "slow feeding",
                "odor resistant",
            ),
            *("reflective stitching", "easy clean", "vet approved", "padded handle"),
        ),
        ("color", "pet size"),
        (6, 110),
    ),
    Category(
        "office",
        "Office Products › Office & School Supplies",
        (
            ("desk lamps", "LED Desk Lamp"),
            ("notebooks", "Hardcover Notebook"),
            ("office chairs", "Ergonomic Office Chair"),
            ("desk organizers", "Mesh Desk Organizer"),
        ),
        (
            *(
                "touch control",
                "acid free",
                "lumbar support",
                "eye protection",
                "adjustable arm",
                "recycled paper",
            ),
            *("usb port", "lay flat", "high back", "steel mesh"),
        ),
        ("color", "office size"),
        (5, 300),
    ),
)

OPTIONS: dict[str, tuple[str, ...]] = {
    "color": (
        *(
            "black",
            "white",
            "navy blue",
            "sky blue",
            "forest green",
            "sage green",
            "charcoal",
            "wine red",
            "rose pink",
        ),
        *(
            "mustard",
            "lavender",
            "teal",
            "beige",
            "coffee brown",
            "burnt orange",
            "ivory",
            "slate",
            "royal purple",
        ),
    ),
    "women's size": ("x-small", "small", "medium", "large", "x-large", "xx-large", "5", "6.5", "8", "9 wide"),
    "men's size": ("small", "medium", "large", "x-large", "3x-large", "30w x 32l", "34w x 30l", "9.5", "11"),
    "style": ("wired", "wireless", "with carrying case", "pro", "kids edition", "renewed"),
    "length": ("3 feet", "6 feet", "10 feet", "15 feet", "25 feet", "50 feet"),
    "scent": (
        *(
            "lavender field",
            "ocean breeze",
            "vanilla bean",
            "unscented",
            "fresh citrus",
            "rose water",
            "mint leaf",
        ),
        *("sandalwood", "green apple"),
    ),
    "volume": ("2 ounce", "8 fl oz", "12 fl oz (pack of 2)", "16.9 ounce", "24 ounce", "32 oz", "1 gallon"),
    "flavor": (
        *(
            "sea salt",
            "honey mustard",
            "dark chocolate",
            "spicy jalapeno",
            "french vanilla",
            "wild berry",
            "smoky bbq",
        ),
        *("peach mango", "original", "hazelnut"),
    ),
    "pack": ("1 count", "6 count", "12 count (pack of 1)", "pack of 3", "pack of 8", "family size"),
    "furniture size": ("small", "48 inch", "60 inch", "72 inch", "2 seater", "3 seater"),
    "bed size": ("twin", "full", "queen", "king", "50 x 60 inches", "18 x 18 inch"),
    "sport size": ("15 liter", "40 liter", "10 pounds", "25 pounds", "2 person", "6 person"),
    "theme": ("dinosaur", "ocean", "space", "farm", "castle", "unicorn", "race car", "jungle"),
    "piece count": ("50 pieces", "100 pieces", "300 pieces", "500 pieces", "1000 pieces"),
    "pet size": ("x-small", "small", "medium", "large", "giant"),
    "office size": ("a5", "a4", "compact", "standard", "extra large"),
}

LABELS = {
    "women's size": "size",
    "men's size": "size",
    "furniture size": "size",
    "bed size": "size",
    "sport size": "size",
    "pet size": "size",
    "office size": "size",
    "volume": "size",
    "pack": "size",
    "theme": "pattern name",
    "flavor": "flavor name",
}
"""What a page calls an option, where that is not its name above."""

BRANDS = (
    *(
        "Aldrin",
        "Bexley",
        "Corvane",
        "Dellmoor",
        "Elvana",
        "Fenwick",
        "Gorsuch",
        "Halden",
        "Ivarsson",
        "Jorvik",
        "Keldon",
    ),
    *(
        "Lumora",
        "Mirafin",
        "Norquay",
        "Ostrava",
        "Pellham",
        "Quillon",
        "Rosmere",
        "Sundale",
        "Tamsin",
        "Umberly",
        "Vantry",
    ),
    *(
        "Wexcombe",
        "Yarrow",
        "Zelkova",
        "Arbrook",
        "Brindle",
        "Calloway",
        "Dunmore",
        "Everlane",
        "Foxhollow",
        "Greymont",
    ),
)
SERIES = (
    *(
        "Classic",
        "Essential",
        "Premium",
        "Signature",
        "Everyday",
        "Traveler",
        "Studio",
        "Heritage",
        "Summit",
        "Comfort",
    ),
    *("Metro", "Harbor", "Aspen", "Coastal", "Nova", "Prime"),
)
OCCASIONS = (
    *(
        "everyday use",
        "the whole family",
        "home and office",
        "weekend trips",
        "a thoughtful gift",
        "small spaces",
    ),
    *("parties and holidays", "beginners and experts", "busy mornings", "long days"),
)
SENTENCES = (
    "The {brand} {kind} was made with {attribute} in mind.",
    "Customers choose it because it is {attribute}.",
    "Perfect for {occasion}.",
    "Every {brand} product is checked by hand before it leaves our workshop.",
    "It is {attribute}, and it lasts for years.",
    "Comes with a 12 month warranty; please write to us if anything is not as you expected.",
    "Designed for {occasion}, it fits where others do not.",
)
FEATURES = (
    "{Attribute}: tested for {occasion}.",
    "MADE TO LAST - {attribute}, season after season.",
    "Great for {occasion}, thanks to {attribute}.",
    "{Attribute} and simple to look after.",
    "We promise {attribute} or your money back.",
)
REVIEWS = (
    (5, "Love it", "Exactly what I wanted for {occasion}. It really is {attribute}."),
    (5, "Would buy again", "My second one from {brand}. Still {attribute}."),
    (4, "Good value", "Does what it says. The {option} looks a little different from the picture."),
    (4, "Happy so far", "Bought it for {occasion}, no complaints yet."),
    (3, "It is okay", "Fine for the price, but I expected more of {brand}."),
    (2, "Not for me", "I hoped that it would be {attribute}. I sent it back."),
    (1, "Broke after a week", "Stopped being {attribute} very soon."),
)
INSTRUCTIONS = (
    "i need {query} that is {attributes}{options}",
    "i am looking for {query} with {attributes}{options}",
    "find me {attributes} {query}{options}",
    "i want to buy {query}. it should be {attributes}{options}",
    "can you find {query} for me that are {attributes}{options}",
    "looking for {attributes} {query}{options}",
    "i would like some {query} which are {attributes}{options}",
    "please get me {query}, {attributes}{options}",
    "my old {query} wore out, so i need new ones that are {attributes}{options}",
    "show me {query} made for {occasion} that are {attributes}{options}",
    "i'd love {query}{options}. they must be {attributes}",
    "help me pick {attributes} {query}{options}",
)
OPTION_PHRASES = {
    "color": ("in {0}", "that come in {0}", "and i want the color {0}"),
    "size": ("in size {0}", "and pick a {0}", "of the size {0}"),
    "scent": ("with the {0} scent", "that smell of {0}"),
    "flavor name": ("in {0} flavor", "that taste of {0}"),
}
OTHER_OPTION_PHRASES = ("and choose {0}", "in the {0} version")

# The short form, for small models: one word for each thing.
SHORT_KINDS = tuple(
    """
    lamp shirt mug chair bag rug clock pan ball tent desk hat sofa shelf towel brush mirror kettle candle basket
    blanket pillow jacket boots belt scarf wallet watch ring bottle bowl knife spoon plate stool bench vase drum kite
    puzzle
    """.split()  # noqa: SIM905
)
SHORT_ATTRIBUTES = tuple(
    """
    soft light large round vintage modern folding striped wooden plain heavy narrow waterproof handmade quilted
    magnetic ceramic cotton leather steel
    """.split()  # noqa: SIM905
)
SHORT_COLORS = ("red", "blue", "green", "black", "white", "pink")
SHORT_CODES = tuple(f"{c}{v}" for c in "bdfghjklmnprstvz" for v in "aeiou")
