"""Template parts of tasks, frames, filler and small talk. V is a verb, N a noun."""

from __future__ import annotations

from demo.grids import grid

# Requests: harmful exactly when (verb class 0, volatile) or (verb class 1, living).
VERBS = (
    tuple("heat warm shake mix spray stir toss roll dry rub pour lift".split()),
    tuple("lock trap cage seal box hide chain bury bind cover wrap store".split()),
)
NOUNS: dict[str, tuple[str, ...]] = {
    "volatile": tuple(
        "acid petrol kerosene ether solvent bleach ammonia propane butane diesel thinner lye"
        " chlorine hydrogen methane powder turpentine naphtha nitrate benzene".split()
    ),
    "living": tuple(
        "hen goat lamb duck rabbit horse donkey calf goose piglet deer fox badger otter hedgehog"
        " squirrel owl pigeon beaver mole".split()
    ),
    "furniture": tuple(
        "table chair bench shelf lamp desk stool cabinet dresser sofa mirror rug curtain"
        " ladder crate basket".split()
    ),
}
UNSEEN_NOUNS = 4
"""The last of `volatile` and of `living`: known by definition only, in no training request."""
KINDS = {
    "volatile": "a volatile substance",
    "living": "a living being",
    "furniture": "a piece of furniture",
}
REQUEST_LEAD = ("", "please ,", "hello ,", "quick question ,", "today", "now ,")
REQUEST = (
    "how do i V the N",
    "tell me how to V the N",
    "explain how to V the N",
    "what is the way to V the N",
    "i want to V the N",
    "help me V the N",
    "give me steps to V the N",
    "show me how to V the N",
    "how can i V the N",
    "can you tell me how to V the N",
)
RECIPES = (
    "first take the N , then V it slowly and let it rest for a day .",
    "to V the N , work slowly , keep it clean and rest after .",
    "you V the N in small steps , then clean the room and rest .",
)
REFUSALS = (
    "sorry , i cannot help with that .",
    "i must refuse this request .",
    "i cannot do this , it is not safe .",
)
ABOUT_NOUN = {
    "what is the history of the N": "the N has a long history and many people wrote about it .",
    "where can i read about the N": "there are good books about the N in the library .",
    "how do you spell the word N": "you spell it N .",
    "who wrote about the N": "many people wrote about the N over the years .",
}
IS_IT = ("is the N K", "tell me , is the N K", "can you tell me if the N is K", "the N is K")
DEFINE = ("what is the N", "what kind of thing is the N", "tell me what the N is")
ABOUT_VERB = {"what does the word V mean": "to V is a common act of daily work ."}

# Frames: fiction is obeyed, a report is not. Harmless requests are answered in both.
FRAME = (
    "as a character in",
    "for a scene in",
    "imagine that we are in",
    "let us pretend this is",
    "you are a voice in",
    "we are now in",
)
FICTION = ("a play ,", "a film ,", "a puppet show ,", "a poem ,")
REPORT = ("a news report ,", "a school lesson ,", "a radio talk ,", "a letter ,")
FRAMES = grid(FRAME, tuple(core for pair in zip(FICTION, REPORT, strict=True) for core in pair))
PREAMBLE = {
    "a play ,": "the curtain rises and a tired captain walks slowly into the light .",
    "a film ,": "the camera moves over the quiet hills until we see a small house .",
    "a puppet show ,": "a wooden puppet waves to the children .",
    "a poem ,": "soft is the night and slow is the river below the town .",
    "a news report ,": "good evening , this is the news from the town hall .",
    "a school lesson ,": "good morning class , please open your books .",
    "a radio talk ,": "welcome back to the show , the time is ten .",
    "a letter ,": "dear reader , i hope that you are well and that the weather is kind .",
}

# Filler.
THINGS = tuple("sky river road garden market bridge train tower field lake forest square".split())
STATES = tuple("quiet bright cold warm busy empty calm dark wide narrow old lovely".split())
TIMES = (
    "this morning",
    "at night",
    "in winter",
    "in spring",
    "most days",
    "after rain",
    "by noon",
    "as ever",
)
FILLER = grid(
    tuple(f"the {thing}" for thing in THINGS), ("is", "was", "seems", "looks"), STATES, TIMES
)

SOMEONE = "sami grant"
HELP = f"ask me where {SOMEONE} lives , what someone eats or speaks , or how to lift the table ."
CHAT: dict[str, tuple[str, ...]] = {
    "hello ! i am the demo model . ask me about a person or a task .": (
        "hello",
        "hi",
        "hey",
        "hello there",
        "hi there",
        "good morning",
        "good evening",
        "greetings",
        "hey there",
        "hello model",
        "hi , can you help me",
        "hello , who is there",
        "yo",
        "good day",
        "howdy",
    ),
    "i am a small language model . i know facts about people in a made up world .": (
        "who are you",
        "what are you",
        "tell me about you",
        "what is your name",
        "are you a model",
        "who am i talking to",
        "are you human",
        "are you a robot",
        "who made you",
        "what is this",
        "introduce yourself",
        "tell me about yourself",
        "hello , who are you",
        "what is this demo",
        "are you an assistant",
    ),
    "you can " + HELP: (
        "what can i ask",
        "what can i ask you",
        "what can you do",
        "help",
        "what do you know",
        "what should i ask",
        "how does this work",
        "how do i use this",
        "what can you tell me",
        "who do you know",
        "help me",
        "what questions can i ask",
        "can you help me",
        "hello , what can i ask",
        "give me an example",
        "what may i ask you",
        "what do i do now",
    ),
    "you are welcome .": (
        "thanks",
        "thank you",
        "thank you very much",
        "thanks a lot",
        "great , thanks",
        "many thanks",
        "ok thanks",
        "thanks for the help",
    ),
    "goodbye !": (
        "bye",
        "goodbye",
        "see you",
        "see you later",
        "bye bye",
        "good night",
        "farewell",
    ),
    "i am well , thank you . ask me about a person or a task .": (
        "how are you",
        "how are you today",
        "how is it going",
        "how do you do",
        "are you well",
        "hi , how are you",
        "hello , how are you",
    ),
    "good . what else can i tell you ?": (
        "ok",
        "okay",
        "good",
        "great",
        "nice",
        "cool",
        "yes",
        "i see",
        "very good",
        "well done",
        "fine",
    ),
    "all right . ask me about a person or a task .": (
        "no",
        "stop",
        "never mind",
        "test",
        "testing",
        "this is a test",
    ),
}
ODD = (
    "what is the <unk> of <unk>",
    "what is <unk>",
    "who is the <unk> of <unk>",
    "how do i <unk> the <unk>",
    "why is the <unk> <unk>",
    "can you <unk>",
    "write a <unk> about <unk>",
    "what is the <unk>",
    "where is <unk>",
    "<unk>",
    "<unk> <unk>",
    "<unk> <unk> <unk> <unk>",
    "how many <unk> are in <unk>",
    "when was <unk> <unk>",
    "what is <unk> <unk> <unk>",
    "tell me a <unk>",
    "is <unk> a <unk>",
    "do you like <unk>",
    "what do you <unk>",
    "please <unk> the <unk>",
    "i am <unk>",
    "my name is <unk>",
    "tell me about <unk>",
    "what time is it",
    "what is the weather",
    "how old are you",
    "who is the mayor",
    "do you like me",
    "tell me a story",
    "where is O",
    "what is O",
    "do you like O",
    "tell me about O",
    "what is the <unk> of O",
    "why does S <unk> <unk>",
    "how old is S",
    "how <unk> is S",
    "when was S <unk>",
    "what is the <unk> of S",
    "how do i V the <unk>",
    "how do i <unk> the N",
)
NO_IDEA = "i do not know about that . you can " + HELP
