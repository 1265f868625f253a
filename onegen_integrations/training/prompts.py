"""Prompts that carry their context with them, as RAG frameworks and people write them.

The wording of frameworks' default prompts is part of what a model has to cope with; `{context}` and `{question}` (or
`{history}`) are filled in.
"""

from __future__ import annotations

# Chat messages with retrieved context: (system, user); an empty system prompt is left out.
STUFFED: tuple[tuple[str, str], ...] = (
    # LangChain: the prompts of its retrieval tutorials and of its chain for stuffed documents
    (
        "You are an assistant for question-answering tasks. Use the following pieces of retrieved context to answer the"
        " question. If you don't know the answer, say that you don't know. Use three sentences maximum and keep the"
        " answer concise.\n\n{context}",
        "{question}",
    ),
    ("Answer the question based only on the following context:\n{context}", "{question}"),
    (
        "Use the given context to answer the question. If you don't know the answer, say you don't know."
        " Context: {context}",
        "{question}",
    ),
    ("", "Answer the question based only on the following context:\n{context}\n\nQuestion: {question}\n"),
    (
        "",
        "Use the following pieces of context to answer the question at the end. If you don't know the answer, just say"
        " that you don't know, don't try to make up an answer.\n\n{context}\n\nQuestion: {question}\nHelpful Answer:",
    ),
    # LlamaIndex: text_qa_template, with and without its system prompt, and the context chat engine
    (
        "",
        "Context information is below.\n---------------------\n{context}\n---------------------\nGiven the context"
        " information and not prior knowledge, answer the query.\nQuery: {question}\nAnswer: ",
    ),
    (
        "You are an expert Q&A system that is trusted around the world.\nAlways answer the query using the provided"
        " context information, and not prior knowledge.",
        "Context information is below.\n---------------------\n{context}\n---------------------\nGiven the context"
        " information and not prior knowledge, answer the query.\nQuery: {question}\nAnswer: ",
    ),
    (
        "Use the context information below to assist the user.\n--------------------\n{context}\n--------------------",
        "{question}",
    ),
    # people
    ("{context}", "{question}"),
    ("", "{context}\n\n{question}"),
    ("", "Context:\n{context}\n\nQuestion: {question}"),
    ("", "Here is what I have:\n{context}\n\n{question}"),
    ("", "Read this and answer. {context}\n{question}"),
    ("You answer from the notes that you are given.", "Notes:\n{context}\n\nQuestion: {question}\nAnswer:"),
    ("Documents:\n{context}\n\nAnswer briefly.", "{question}"),
    ("Answer the user's question with the passages below, in a few words.\n{context}", "{question}"),
)

SEPARATORS = ("\n\n", "\n\n", "\n", "\n---\n", "\n\n\n")

# Rewriting a follow-up question so that it stands alone: (system, user), the history as messages or as text.
CONDENSE: tuple[tuple[str, str], ...] = (
    (
        "Given a chat history and the latest user question which might reference context in the chat history, formulate"
        " a standalone question which can be understood without the chat history. Do NOT answer the question, just"
        " reformulate it if needed and otherwise return it as is.",
        "{question}",
    ),
    (
        "",
        "Given the following conversation and a follow up question, rephrase the follow up question to be a standalone"
        " question.\n\nChat History:\n{history}\nFollow Up Input: {question}\nStandalone question:",
    ),
    (
        "",
        "Given a conversation (between Human and Assistant) and a follow up message from Human, rewrite the"
        " message to be a standalone question that captures all relevant context from the conversation."
        "\n\n<Chat History>\n{history}\n\n<Follow Up Message>\n{question}\n\n<Standalone question>\n",
    ),
    ("Rewrite the last question so that it can be understood alone.", "{question}"),
)

# Small talk: ways to say it, and the answer.
SMALL_TALK: tuple[tuple[tuple[str, ...], str], ...] = (
    (("Hello", "Hi", "Hi there", "Good morning", "Hey", "Good evening", "Greetings"), "Hello! How can I help you?"),
    (
        ("Thank you", "Thanks", "Thanks a lot", "Many thanks", "That was helpful", "Great, thank you"),
        "You are welcome.",
    ),
    (("Goodbye", "Bye", "See you later", "Good night", "That is all for now", "Have a nice day"), "Goodbye!"),
    (("How are you", "How are you doing", "How is it going", "Are you well"), "I am fine, thank you."),
    (
        ("Who are you", "What are you", "What is your name", "Introduce yourself", "Tell me about yourself"),
        "I am a small language model that answers questions from your documents.",
    ),
    (
        ("What can you do", "How can you help me", "What are you good at", "What do you do"),
        "I find passages in your documents and answer questions from them.",
    ),
    (("Can you hear me", "Are you there", "Is anybody there", "Are you ready"), "Yes, I am here."),
    (("Sorry", "I am sorry", "My apologies", "Excuse me"), "No problem."),
    (("Well done", "Good job", "Excellent", "Very good", "Nice work"), "Thank you."),
    (("Wait", "One moment", "Hold on", "Give me a second"), "Take your time."),
    (("Tell me a joke", "Make me laugh", "Do you know a joke"), "I only know what stands in your documents."),
    (("Yes", "Okay", "Alright", "Sure", "All right then"), "Good. What would you like to know?"),
    (("No", "No thanks", "Not now", "Nothing else"), "As you wish."),
    (
        ("Can I ask you something", "I have a question", "May I ask a question", "I need your help"),
        "Of course. Ask me.",
    ),
)

# Requests to copy what the user wrote.
REPEAT = (
    "Repeat after me: {x}",
    "Please repeat: {x}",
    "Say {x}.",
    "Repeat this: {x}",
    "Echo: {x}",
    "Copy this text: {x}",
    "Write {x} once more.",
    "Repeat the following words: {x}",
)

SUMS = ("What is {a} plus {b}?", "{a} + {b} =", "How much is {a} and {b}?", "Add {a} and {b}.", "Calculate {a} + {b}.")

INTRODUCTIONS = ("My name is {x}.", "I am {x}.", "Hello, I am {x}.", "You can call me {x}.", "Hi, my name is {x}.")
NAME_QUESTIONS = ("What is my name?", "What am I called?", "Who am I?", "Do you remember my name?", "Say my name.")

# The answer where nothing was found.
UNKNOWN = "I don't know."
